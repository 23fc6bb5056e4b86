#include "migration/protocol.h"

#include <fmt/format.h>

#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>

#include "migration/compression.h"
#include "migration/machine_json.h"

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
      return kMaxRangesInFrame * kMaxRdmaPorts * sizeof(RemoteExtent);
    case MessageKind::kPages:
      return sizeof(std::uint64_t) + kMaxRangesInFrame * sizeof(memory::PageRange) +
             kMaxFramePages * memory::kPageSize;
    case MessageKind::kCompressed:
      return sizeof(std::uint64_t) + kMaxCompressedPages * sizeof(memory::PageRange) +
             kMaxCompressedBytes;
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
    case MessageKind::kCompressed:
      return "Compressed";
    case MessageKind::kRehearse:
      return "Rehearse";
    case MessageKind::kNever:
      return "Never";
  }
  return "unknown";
}

namespace {

constexpr std::size_t kMaxToken = 64;  // bytes

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

unsigned streams(const json& from) {
  const auto count = number<unsigned>(from.at("streams"), "streams");
  if (count < 1 || count > kMaxStreams) out_of_range("streams");
  return count;
}

/// Ascending; the first is that of the connection.
std::vector<unsigned> ports(const json& from) {
  std::vector<unsigned> list;
  for (const json& one : from) {
    const auto port = number<unsigned>(one, "ports");
    const bool ascending = list.empty() ? port == 0 : port > list.back();
    if (!ascending || port >= kMaxRdmaPorts) out_of_range("ports");
    list.push_back(port);
  }
  return list;
}

double milliseconds(const json& from, const char* name) {
  const double value = from.at(name).get<double>();
  if (!std::isfinite(value) || value < 0) out_of_range(name);
  return value;
}

json to_json(const RdmaAddress& address) {
  return {{"qp", address.qp_number}, {"psn", address.packet_sequence}, {"lid", address.lid},
          {"mtu", address.mtu},      {"ethernet", address.ethernet},   {"gid", address.gid},
          {"port", address.port},    {"bits", address.network_bits}};
}

json to_json(const std::vector<RdmaAddress>& addresses) {
  json list = json::array();
  for (const RdmaAddress& address : addresses) list.push_back(to_json(address));
  return list;
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
  get_number(from, "port", address.port);
  get_number(from, "bits", address.network_bits);
  if (address.gid.size() != 16 || address.qp_number > 0xffffff ||
      address.packet_sequence > 0xffffff || address.mtu < 1 || address.mtu > 5 ||
      address.port >= kMaxRdmaPorts || address.network_bits > 128) {
    throw ChannelError("the peer's RDMA address is out of range");
  }
  return address;
}

/// By port, ascending; the first is that of the connection.
std::vector<RdmaAddress> rdma_addresses(const json& from) {
  std::vector<RdmaAddress> addresses;
  for (const json& one : from) {
    addresses.push_back(rdma_address(one));
    const bool ascending = addresses.size() == 1
                               ? addresses.back().port == 0
                               : addresses.back().port >= addresses[addresses.size() - 2].port;
    if (!ascending || addresses.size() > kMaxRdmaPorts * kMaxQueuePairs) out_of_range("rdma");
  }
  return addresses;
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
  body["rdma"] = to_json(hello.rdma);
  return body.dump();
}

std::string encode(const Accept& accept) {
  json body = {{"rdma_reason", accept.rdma_reason},
               {"token", accept.token},
               {"disks_tell", accept.disks_tell},
               {"streams", accept.streams},
               {"join", accept.join}};
  body["rdma"] = to_json(accept.rdma);
  return body.dump();
}

std::string encode(const Begin& begin) {
  return json{{"transport", begin.transport}, {"streams", begin.streams}, {"ports", begin.ports}}
      .dump();
}

std::string encode(const Running& running) {
  return json{{"resume_ms", running.resume_ms},
              {"cpu_ms", running.cpu_ms},
              {"cpu_rounds_ms", running.cpu_rounds_ms}}
      .dump();
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
    hello.rdma = rdma_addresses(body.at("rdma"));
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
    accept.rdma = rdma_addresses(body.at("rdma"));
    return accept;
  });
}

Begin decode_begin(std::span<const std::byte> payload) {
  return decode(MessageKind::kBegin, payload, [](const json& body) {
    Begin begin{body.at("transport").get<std::string>(), streams(body), ports(body.at("ports"))};
    if (begin.transport != "rdma" && begin.transport != "tcp" && begin.transport != "shared") {
      throw ChannelError("the peer began with an unknown transport");
    }
    if (begin.streams > 1 && begin.transport != "tcp") out_of_range("streams");
    if (begin.ports.empty() == (begin.transport == "rdma")) out_of_range("ports");
    return begin;
  });
}

Running decode_running(std::span<const std::byte> payload) {
  return decode(MessageKind::kRunning, payload, [](const json& body) {
    return Running{milliseconds(body, "resume_ms"), milliseconds(body, "cpu_ms"),
                   milliseconds(body, "cpu_rounds_ms")};
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
