// node: the VMM of a host, in the foreground until a signal ends it. Its guests live on.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <memory>
#include <optional>

#include "node/commands.h"
#include "node/control_server.h"
#include "node/control_socket.h"
#include "node/daemon/node_api.h"
#include "node/daemon/tls_module.h"
#include "node/exit_codes.h"
#include "node/listener.h"
#include "node/options.h"

namespace godwit::node {

namespace {

constexpr int kBacklog = 64;

NodeConfig file_of(const Options& options) {
  try {
    return options.has("config") ? read_node_config(options.text("config"))
                                 : parse_node_config("{}");
  } catch (const std::runtime_error& error) {
    throw UsageError(error.what());
  }
}

NodeConfig config_of(const Options& options) {
  NodeConfig config = file_of(options);
  for (const std::string& text : options.all("peer")) {
    const auto equals = text.find('=');
    if (equals == std::string::npos) {
      throw UsageError(fmt::format("--peer: {}: must be NAME=HOST:PORT", text));
    }
    PeerConfig peer{text.substr(0, equals), text.substr(equals + 1)};
    if (const std::string why = peer_complaint(config, peer); !why.empty()) {
      throw UsageError(fmt::format("--peer: {}: {}", text, why));
    }
    config.peers.push_back(std::move(peer));
  }
  return config;
}

std::shared_ptr<const TlsContext> tls_of(const NodeConfig& config) {
  if (!config.tls) return nullptr;
  try {
    auto tls = std::make_shared<const TlsContext>(*config.tls);
    const std::vector<std::string> names = tls->module().own_certificate().names;
    if (std::find(names.begin(), names.end(), config.name) == names.end()) {
      throw std::runtime_error(
          fmt::format("certificate {} says \"{}\", but this node is called \"{}\": no peer would "
                      "believe it",
                      config.tls->certificate, names.front(), config.name));
    }
    return tls;
  } catch (const std::runtime_error& error) {
    throw UsageError(fmt::format("\"tls\": {}", error.what()));
  }
}

Listener listener_of(const std::string& address) {
  try {
    return Listener(address, kBacklog);
  } catch (const std::runtime_error& error) {
    throw std::runtime_error(fmt::format(
        "\"listen\": {}; it must be an address of this host, with a port that nothing else has",
        error.what()));
  }
}

int wait_for_signal(const sigset_t& signals) {
  int number = 0;
  while (::sigwait(&signals, &number) != 0) {
  }
  return number;
}

}  // namespace

int node_command(const Words& words) {
  Options options(
      "node --config FILE [--peer NAME=HOST:PORT]...",
      "Keeps the guests of this host and, with the nodes of other hosts, balances them.",
      "FILE is a JSON object: docs/operations.md lists its keys. Guests live on when the node "
      "ends,\n"
      "and are adopted by the next one.\n"
      "Exit codes: 0 ended by SIGINT or SIGTERM, 1 failed, 2 wrong usage or configuration.");
  options.config("what this node is and has, and who its peers are: a JSON object")
      .values("peer", "NAME=HOST:PORT", "one more peer; repeatable");
  if (!options.parse(words)) return kExitOk;

  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  ::pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  std::signal(SIGPIPE, SIG_IGN);

  const NodeConfig config = config_of(options);
  make_directories(config);
  const std::shared_ptr<const TlsContext> tls = tls_of(config);
  ControlSocket socket(config.socket(), "\"runtime\": a node");
  std::optional<Listener> listener;
  if (!config.listen.empty()) listener.emplace(listener_of(config.listen));

  Workers workers;
  Node node(config, tls);
  std::optional<ControlServer> peers;
  ControlServer local(socket.take_listener(), node_api(node, workers));
  if (listener) {
    fmt::print(stderr, "godwit: node: {} listens on {}{}\n", config.name, listener->address(),
               tls ? " (TLS)" : "");
    peers.emplace(listener->take_socket(), tls, node_api(node, workers));
  }
  fmt::print(stderr, "godwit: node: {} is ready\n", config.name);
  const int number = wait_for_signal(signals);
  fmt::print(stderr, "godwit: node: {}; the guests live on\n", ::strsignal(number));
  // A move in flight may take long yet, and is its guest's own affair: it is not waited for.
  ::unlink(config.socket().c_str());
  std::fflush(nullptr);
  ::_exit(kExitOk);
}

}  // namespace godwit::node
