// The keys of a TLS 1.3 connection for who encrypts and decrypts in OpenSSL's place: OpenSSL 3.0
// gives the kernel only those of the sending side by itself. Part of godwit_tls.so.
#pragma once

#include <openssl/types.h>

#include <array>
#include <optional>
#include <vector>

namespace godwit::tls {

/// Wiped when it goes.
class Secret {
 public:
  Secret() = default;
  explicit Secret(std::size_t size) : bytes_(size) {}
  ~Secret();
  Secret(Secret&& other) = default;
  Secret& operator=(Secret&&) = delete;
  Secret(const Secret&) = delete;
  Secret& operator=(const Secret&) = delete;

  unsigned char* data() { return bytes_.data(); }
  const unsigned char* data() const { return bytes_.data(); }
  std::size_t size() const { return bytes_.size(); }
  void swap(Secret& other) { bytes_.swap(other.bytes_); }

 private:
  std::vector<unsigned char> bytes_;
};

/// Of AES-GCM, for one direction; the first record has the number 0.
struct TrafficKey {
  static constexpr std::size_t kIvBytes = 12;
  Secret key;  // 16 or 32 bytes
  Secret iv;
};

/// Hears them during the handshake of an SSL object.
class TrafficSecrets {
 public:
  /// For each context whose SSL objects may be listened to.
  static void prepare(SSL_CTX* context);
  /// From before its handshake on; this must stay where it is until ignore(), or the end of `ssl`.
  void listen(SSL* ssl);
  static void ignore(SSL* ssl);

  /// After the handshake, and before anything has been sent or received by them; null for another
  /// cipher than AES-GCM.
  std::optional<TrafficKey> client_key(const SSL* ssl) const { return key(ssl, client_); }
  std::optional<TrafficKey> server_key(const SSL* ssl) const { return key(ssl, server_); }

 private:
  static int slot();
  static void hear(const SSL* ssl, const char* line);
  static std::optional<TrafficKey> key(const SSL* ssl, const Secret& secret);

  Secret client_;
  Secret server_;
};

}  // namespace godwit::tls
