#include "migration/protocol.h"

#include <fmt/format.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>

namespace godwit::migration {

using nlohmann::json;

std::uint64_t max_payload(MessageKind kind) {
  switch (kind) {
    case MessageKind::kHello:
    case MessageKind::kAccept:
    case MessageKind::kRefuse:
    case MessageKind::kBegin:
    case MessageKind::kRunning:
    case MessageKind::kAbort:
    case MessageKind::kResume:
    case MessageKind::kNever:
      return kMaxJson;
    case MessageKind::kRegister:
    case MessageKind::kZero:
    case MessageKind::kFetch:
      return kMaxRangesInFrame * sizeof(memory::PageRange);
    case MessageKind::kRegistered:
      return kMaxRangesInFrame * sizeof(RemoteExtent);
    case MessageKind::kPages:
      return sizeof(std::uint64_t) + kMaxRangesInFrame * sizeof(memory::PageRange) +
             kMaxFramePages * memory::kPageSize;
    case MessageKind::kState:
    case MessageKind::kVerify:
    case MessageKind::kMissing:
      return kMaxState;
    case MessageKind::kOffer:
      return kMaxOffered * sizeof(OfferedExtent);
    case MessageKind::kLeft:
      return sizeof(std::uint64_t);
    case MessageKind::kReady:
    case MessageKind::kCommit:
    case MessageKind::kPing:
    case MessageKind::kSync:
    case MessageKind::kSynced:
    case MessageKind::kArrived:
    case MessageKind::kMark:
    case MessageKind::kRehearse:
      return 0;
    case MessageKind::kJoin:
      return sizeof(Join);
  }
  return 0;
}

const char* kind_name(MessageKind kind) {
  switch (kind) {
    case MessageKind::kHello:
      return "Hello";
    case MessageKind::kAccept:
      return "Accept";
    case MessageKind::kRefuse:
      return "Refuse";
    case MessageKind::kBegin:
      return "Begin";
    case MessageKind::kRegister:
      return "Register";
    case MessageKind::kRegistered:
      return "Registered";
    case MessageKind::kPages:
      return "Pages";
    case MessageKind::kZero:
      return "Zero";
    case MessageKind::kState:
      return "State";
    case MessageKind::kReady:
      return "Ready";
    case MessageKind::kCommit:
      return "Commit";
    case MessageKind::kRunning:
      return "Running";
    case MessageKind::kAbort:
      return "Abort";
    case MessageKind::kPing:
      return "Ping";
    case MessageKind::kSync:
      return "Sync";
    case MessageKind::kSynced:
      return "Synced";
    case MessageKind::kVerify:
      return "Verify";
    case MessageKind::kMissing:
      return "Missing";
    case MessageKind::kOffer:
      return "Offer";
    case MessageKind::kFetch:
      return "Fetch";
    case MessageKind::kLeft:
      return "Left";
    case MessageKind::kArrived:
      return "Arrived";
    case MessageKind::kResume:
      return "Resume";
    case MessageKind::kJoin:
      return "Join";
    case MessageKind::kMark:
      return "Mark";
    case MessageKind::kRehearse:
      return "Rehearse";
    case MessageKind::kNever:
      return "Never";
  }
  return "unknown";
}

namespace {

// The longest texts of a machine's description, bytes.
constexpr std::size_t kMaxName = 64;
constexpr std::size_t kMaxPath = 4096;
constexpr std::size_t kMaxCommandLine = 65536;
constexpr std::size_t kMaxToken = 64;

/// Runs `read` on the parsed payload; whatever is wrong with it becomes one ChannelError.
template <typename Read>
auto decode(MessageKind kind, std::span<const std::byte> payload, Read read) {
  try {
    const auto* text = reinterpret_cast<const char*>(payload.data());
    const auto shallow = [](int depth, json::parse_event_t, json&) {
      if (depth > kMaxJsonDepth) throw ChannelError("the peer's JSON is nested too deep");
      return true;
    };
    return read(json::parse(text, text + payload.size(), shallow));
  } catch (const json::exception& error) {
    throw ChannelError(
        fmt::format("the peer's {} makes no sense: {}", kind_name(kind), error.what()));
  }
}

[[noreturn]] void out_of_range(const char* name) {
  throw ChannelError(fmt::format("the peer's \"{}\" is out of range", name));
}

// json's own conversions wrap negative numbers and cast fractions: these take only what fits.
template <typename T>
T number(const json& value, const char* name) {
  if (!value.is_number_unsigned() || value.get<std::uint64_t>() > std::numeric_limits<T>::max()) {
    out_of_range(name);
  }
  return static_cast<T>(value.get<std::uint64_t>());
}

template <typename T>
void get_number(const json& from, const char* name, T& into) {
  into = number<T>(from.at(name), name);
}

/// A string for open() and the like: of bounded length, and no NUL that would cut it short.
void get_text(const json& from, const char* name, std::size_t most, std::string& into) {
  from.at(name).get_to(into);
  if (into.size() > most || into.find('\0') != std::string::npos) out_of_range(name);
}

unsigned streams(const json& from) {
  const auto count = number<unsigned>(from.at("streams"), "streams");
  if (count < 1 || count > kMaxStreams) out_of_range("streams");
  return count;
}

double milliseconds(const json& from, const char* name) {
  const double value = from.at(name).get<double>();
  if (!std::isfinite(value) || value < 0) out_of_range(name);
  return value;
}

json to_json(const RdmaAddress& address) {
  return {{"qp", address.qp_number}, {"psn", address.packet_sequence}, {"lid", address.lid},
          {"mtu", address.mtu},      {"ethernet", address.ethernet},   {"gid", address.gid}};
}

RdmaAddress rdma_address(const json& from) {
  RdmaAddress address;
  get_number(from, "qp", address.qp_number);
  get_number(from, "psn", address.packet_sequence);
  get_number(from, "lid", address.lid);
  get_number(from, "mtu", address.mtu);
  from.at("ethernet").get_to(address.ethernet);
  for (const json& byte : from.at("gid")) {
    address.gid.push_back(number<std::uint8_t>(byte, "gid"));
  }
  if (address.gid.size() != 16 || address.qp_number > 0xffffff ||
      address.packet_sequence > 0xffffff || address.mtu < 1 || address.mtu > 5) {
    throw ChannelError("the peer's RDMA address is out of range");
  }
  return address;
}

json to_json(const vmm::MachineConfig& machine) {
  json disks = json::array();
  for (const auto& disk : machine.disks) {
    disks.push_back({{"path", disk.path},
                     {"read_only", disk.read_only},
                     {"direct", disk.direct},
                     {"serial", disk.serial}});
  }
  json nets = json::array();
  for (const auto& net : machine.nets) {
    nets.push_back({{"tap", net.tap}, {"mac", net.mac}, {"mtu", net.mtu}, {"bridge", net.bridge}});
  }
  return {{"name", machine.name},
          {"memory_bytes", machine.memory_bytes},
          {"cpus", machine.cpus},
          {"cpu", machine.cpu},
          {"huge_pages", machine.huge_pages},
          {"disks", disks},
          {"nets", nets},
          {"rng", machine.rng},
          {"balloon", machine.balloon},
          {"vsock", {{"cid", machine.vsock.cid}, {"path", machine.vsock.path}}},
          {"console", machine.console},
          {"kernel", machine.kernel},
          {"initrd", machine.initrd},
          {"command_line", machine.command_line}};
}

vmm::MachineConfig machine_config(const json& from) {
  vmm::MachineConfig machine;
  get_text(from, "name", kMaxName, machine.name);
  get_number(from, "memory_bytes", machine.memory_bytes);
  get_number(from, "cpus", machine.cpus);
  get_text(from, "cpu", kMaxName, machine.cpu);
  from.at("huge_pages").get_to(machine.huge_pages);
  from.at("rng").get_to(machine.rng);
  from.at("balloon").get_to(machine.balloon);
  get_number(from.at("vsock"), "cid", machine.vsock.cid);
  get_text(from.at("vsock"), "path", kMaxPath, machine.vsock.path);
  from.at("console").get_to(machine.console);
  get_text(from, "kernel", kMaxPath, machine.kernel);
  get_text(from, "initrd", kMaxPath, machine.initrd);
  get_text(from, "command_line", kMaxCommandLine, machine.command_line);
  for (const json& disk : from.at("disks")) {
    vmm::DiskConfig& config = machine.disks.emplace_back();
    get_text(disk, "path", kMaxPath, config.path);
    disk.at("read_only").get_to(config.read_only);
    disk.at("direct").get_to(config.direct);
    get_text(disk, "serial", kMaxName, config.serial);
  }
  for (const json& net : from.at("nets")) {
    vmm::NetConfig& config = machine.nets.emplace_back();
    get_text(net, "tap", kMaxName, config.tap);
    get_text(net, "mac", kMaxName, config.mac);
    get_number(net, "mtu", config.mtu);
    get_text(net, "bridge", kMaxName, config.bridge);
  }
  return machine;
}

}  // namespace

std::string encode(const Hello& hello) {
  json body = {{"machine", to_json(hello.machine)},
               {"requirements", hello.requirements},
               {"data_bytes", hello.data_bytes},
               {"postcopy", hello.postcopy},
               {"max_bandwidth", hello.max_bandwidth},
               {"streams", hello.streams},
               {"dry_run", hello.dry_run}};
  if (hello.rdma) body["rdma"] = to_json(hello.rdma_address);
  return body.dump();
}

std::string encode(const Accept& accept) {
  json body = {{"rdma_reason", accept.rdma_reason},
               {"token", accept.token},
               {"disks_tell", accept.disks_tell},
               {"streams", accept.streams},
               {"join", accept.join}};
  if (accept.rdma) body["rdma"] = to_json(accept.rdma_address);
  return body.dump();
}

std::string encode(const Begin& begin) {
  return json{{"transport", begin.transport}, {"streams", begin.streams}}.dump();
}

std::string encode(const Running& running) {
  return json{{"resume_ms", running.resume_ms}, {"cpu_ms", running.cpu_ms}}.dump();
}

std::string encode_reason(const std::string& why) {
  return json{{"why", why}}.dump(-1, ' ', false, json::error_handler_t::replace);
}

Hello decode_hello(std::span<const std::byte> payload) {
  return decode(MessageKind::kHello, payload, [](const json& body) {
    Hello hello;
    hello.machine = machine_config(body.at("machine"));
    body.at("requirements").get_to(hello.requirements);
    get_number(body, "data_bytes", hello.data_bytes);
    hello.rdma = body.contains("rdma");
    if (hello.rdma) hello.rdma_address = rdma_address(body.at("rdma"));
    body.at("postcopy").get_to(hello.postcopy);
    get_number(body, "max_bandwidth", hello.max_bandwidth);
    hello.streams = streams(body);
    body.at("dry_run").get_to(hello.dry_run);
    return hello;
  });
}

Accept decode_accept(std::span<const std::byte> payload) {
  return decode(MessageKind::kAccept, payload, [](const json& body) {
    Accept accept;
    body.at("rdma_reason").get_to(accept.rdma_reason);
    get_text(body, "token", kMaxToken, accept.token);
    body.at("disks_tell").get_to(accept.disks_tell);
    accept.streams = streams(body);
    get_text(body, "join", kMaxToken, accept.join);
    if (accept.streams > 1 && accept.join.size() != kJoinToken) out_of_range("join");
    accept.rdma = body.contains("rdma");
    if (accept.rdma) accept.rdma_address = rdma_address(body.at("rdma"));
    return accept;
  });
}

Begin decode_begin(std::span<const std::byte> payload) {
  return decode(MessageKind::kBegin, payload, [](const json& body) {
    Begin begin{body.at("transport").get<std::string>(), streams(body)};
    if (begin.transport != "rdma" && begin.transport != "tcp" && begin.transport != "shared") {
      throw ChannelError("the peer began with an unknown transport");
    }
    if (begin.streams > 1 && begin.transport != "tcp") out_of_range("streams");
    return begin;
  });
}

Running decode_running(std::span<const std::byte> payload) {
  return decode(MessageKind::kRunning, payload, [](const json& body) {
    return Running{milliseconds(body, "resume_ms"), milliseconds(body, "cpu_ms")};
  });
}

Resume decode_resume(std::span<const std::byte> payload) {
  return decode(MessageKind::kResume, payload, [](const json& body) {
    Resume resume;
    get_text(body, "token", kMaxToken, resume.token);
    resume.rdma = body.contains("rdma");
    if (resume.rdma) resume.rdma_address = rdma_address(body.at("rdma"));
    return resume;
  });
}

std::string decode_reason(std::span<const std::byte> payload) {
  return decode(MessageKind::kRefuse, payload, [](const json& body) {
    std::string why = body.at("why").get<std::string>();
    for (char& c : why) {
      if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = ' ';  // it goes to a terminal
    }
    return why;
  });
}

std::string encode(const Resume& resume) {
  json body{{"token", resume.token}};
  if (resume.rdma) body["rdma"] = to_json(resume.rdma_address);
  return body.dump();
}

memory::PageBitmap decode_missing(std::span<const std::byte> payload, std::uint64_t pages) {
  memory::PageBitmap missing(pages);
  const auto words = std::as_writable_bytes(missing.words());
  if (payload.size() != words.size()) {
    throw ChannelError(
        "the peer sent a bitmap of missing pages of another size than the guest's RAM");
  }
  std::memcpy(words.data(), payload.data(), payload.size());
  if (pages % 64 != 0 && (missing.words().back() >> (pages % 64)) != 0) {
    throw ChannelError("the peer named pages outside the guest's RAM");
  }
  return missing;
}

std::vector<OfferedExtent> decode_offer(std::span<const std::byte> payload, std::uint64_t pages) {
  const std::size_t count = payload.size() / sizeof(OfferedExtent);
  if (count > kMaxOffered || payload.size() % sizeof(OfferedExtent) != 0) {
    throw ChannelError("the peer sent an offer of an impossible length");
  }
  std::vector<OfferedExtent> offered(count);
  if (count > 0) std::memcpy(offered.data(), payload.data(), payload.size());
  std::uint64_t end = 0;
  for (const auto& [range, at] : offered) {
    if (range.count == 0 || range.first < end || range.first >= pages ||
        range.count > pages - range.first) {
      throw ChannelError("the peer offered pages outside the guest's RAM");
    }
    end = range.end();
  }
  return offered;
}

std::vector<memory::PageRange> decode_ranges(std::span<const std::byte> payload,
                                             std::uint64_t pages, std::uint64_t max) {
  const std::size_t count = payload.size() / sizeof(memory::PageRange);
  if (count == 0 || count > max || payload.size() % sizeof(memory::PageRange) != 0) {
    throw ChannelError("the peer sent a list of page ranges of an impossible length");
  }
  std::vector<memory::PageRange> ranges(count);
  std::memcpy(ranges.data(), payload.data(), payload.size());
  std::uint64_t end = 0;
  for (const memory::PageRange& range : ranges) {
    if (range.count == 0 || range.first < end || range.first >= pages ||
        range.count > pages - range.first) {
      throw ChannelError("the peer named pages outside the guest's RAM");
    }
    end = range.end();
  }
  return ranges;
}

}  // namespace godwit::migration
