#include "migration/tls/kernel_stream.h"

#include <fmt/format.h>
#include <linux/tls.h>
#include <netinet/tcp.h>
#include <openssl/crypto.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <climits>
#include <cstring>
#include <thread>

#include "migration/tls/openssl_session.h"

#ifndef SOL_TLS
#define SOL_TLS 282
#endif

namespace godwit::tls {

namespace {

constexpr std::chrono::microseconds kPartOfRecord{200};

/// The record number stays 0. In TLS 1.3 the kernel's salt is the first part of the IV.
template <typename Info>
bool set_key(int socket, int direction, std::uint16_t cipher, const TrafficKey& key) {
  Info info{};
  info.info.version = TLS_1_3_VERSION;
  info.info.cipher_type = cipher;
  std::memcpy(info.key, key.key.data(), sizeof info.key);
  std::memcpy(info.salt, key.iv.data(), sizeof info.salt);
  std::memcpy(info.iv, key.iv.data() + sizeof info.salt, sizeof info.iv);
  const bool taken = ::setsockopt(socket, SOL_TLS, direction, &info, sizeof info) == 0;
  ::OPENSSL_cleanse(&info, sizeof info);
  return taken;
}

bool set_key(int socket, int direction, const TrafficKey& key) {
  if (key.key.size() == TLS_CIPHER_AES_GCM_128_KEY_SIZE) {
    return set_key<tls12_crypto_info_aes_gcm_128>(socket, direction, TLS_CIPHER_AES_GCM_128, key);
  }
  return set_key<tls12_crypto_info_aes_gcm_256>(socket, direction, TLS_CIPHER_AES_GCM_256, key);
}

class KernelStream : public Stream {
 public:
  KernelStream(int socket, const std::string& who) : socket_(socket), who_(who) {}

  ssize_t send(std::span<const iovec> parts) override {
    msghdr message = message_of(parts);
    return ::sendmsg(socket_, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
  }

  ssize_t receive(std::span<const iovec> parts) override {
    unsigned char type = SSL3_RT_APPLICATION_DATA;
    const ssize_t got = receive_record(parts, type);
    if (got < 0) return fail();
    if (got > 0 && type == SSL3_RT_APPLICATION_DATA) return got;
    if (got > 0) return heed(type, parts, static_cast<std::size_t>(got));
    errno = ECONNRESET;
    return -1;
  }

  bool readable() override {
    pollfd poll{socket_, POLLIN, 0};
    return ::poll(&poll, 1, 0) == 1;
  }

  bool in_kernel() const override { return true; }

 private:
  static msghdr message_of(std::span<const iovec> parts) {
    msghdr message{};
    message.msg_iov = const_cast<iovec*>(parts.data());
    message.msg_iovlen = std::min<std::size_t>(parts.size(), IOV_MAX);
    return message;
  }

  /// recvmsg(2) of records of one type.
  ssize_t receive_record(std::span<const iovec> parts, unsigned char& type) const {
    msghdr message = message_of(parts);
    alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof type)> control{};
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    const ssize_t got = ::recvmsg(socket_, &message, MSG_DONTWAIT);
    const cmsghdr* const header = got > 0 ? CMSG_FIRSTHDR(&message) : nullptr;
    if (header != nullptr && header->cmsg_level == SOL_TLS &&
        header->cmsg_type == TLS_GET_RECORD_TYPE) {
      type = *CMSG_DATA(header);
    }
    return got;
  }

  ssize_t fail() {
    if (errno == EBADMSG || errno == EMSGSIZE || errno == EINVAL) {
      throw Error(Error::Kind::kBroken,
                  fmt::format("what {} sent arrived altered, or is no TLS record", who_));
    }
    // Before Linux 6.5 poll() tells of every part of a record, and there may be many.
    if (errno == EAGAIN && readable()) {
      std::this_thread::sleep_for(kPartOfRecord);
      errno = EAGAIN;
    }
    return -1;
  }

  /// A record that is no data: an alert, as a rule the last one. `size` bytes of it are in `parts`.
  ssize_t heed(unsigned char type, std::span<const iovec> parts, std::size_t size) const {
    std::array<unsigned char, 2> alert{};  // level, description
    if (size == 1) {
      std::memcpy(alert.data(), parts[0].iov_base, 1);
      const iovec rest{&alert[1], 1};
      size += static_cast<std::size_t>(std::max<ssize_t>(receive_record({&rest, 1}, type), 0));
    } else if (size == alert.size() && parts[0].iov_len >= size) {
      std::memcpy(alert.data(), parts[0].iov_base, size);
    }
    if (type != SSL3_RT_ALERT || size != alert.size()) {
      throw Error(Error::Kind::kBroken,
                  fmt::format("{} sent a TLS record of type {} among its data", who_, type));
    }
    if (alert[1] == SSL_AD_CLOSE_NOTIFY) return 0;
    throw alert_error(alert[1], who_);
  }

  const int socket_;
  const std::string who_;
};

}  // namespace

std::unique_ptr<Stream> kernel_stream(int socket, const TrafficKey& sends,
                                      const TrafficKey& receives, const std::string& who) {
  static constexpr char kName[] = "tls";
  if (::setsockopt(socket, SOL_TCP, TCP_ULP, kName, sizeof kName) != 0) return nullptr;
  if (!set_key(socket, TLS_RX, receives)) return nullptr;
  if (!set_key(socket, TLS_TX, sends)) {
    throw Error(Error::Kind::kBroken,
                fmt::format("the kernel decrypts for TLS with {}, but does not encrypt: {}", who,
                            std::strerror(errno)));
  }
  // Not padded, as OpenSSL and the kernel send them, records are decrypted right into their place.
  const int no_padding = 1;
  ::setsockopt(socket, SOL_TLS, TLS_RX_EXPECT_NO_PAD, &no_padding, sizeof no_padding);
  return std::make_unique<KernelStream>(socket, who);
}

}  // namespace godwit::tls
