// A connected socket of the caller's under TLS: the handshake, then what it carries. Nothing here
// blocks, whatever the socket's mode. One thread at a time.
#pragma once

#include <sys/types.h>

#include <memory>
#include <span>
#include <stdexcept>
#include <string>

struct iovec;

namespace godwit::tls {

/// TLS with the peer is not to be; what() is one line.
class Error : public std::runtime_error {
 public:
  enum class Kind {
    kCertificate,  // it refuses our certificate, or we refuse its
    kName,         // its certificate is good, and another's than was wanted
    kLost,         // the connection ended in the handshake
    kPlain,        // it does not speak TLS
    kBroken,       // not as it should
  };
  Error(Kind kind, const std::string& what) : std::runtime_error(what), kind_(kind) {}
  Kind kind() const { return kind_; }

 private:
  Kind kind_;
};

class Stream {
 public:
  Stream() = default;
  virtual ~Stream() = default;
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  /// As sendmsg(2), without its signal: bytes taken, or -1 and errno. After EAGAIN the same bytes
  /// have to be sent next. Throws Error.
  virtual ssize_t send(std::span<const iovec> parts) = 0;
  /// As readv(2): bytes, 0 once the peer has said farewell, or -1 and errno, ECONNRESET for an end
  /// without that. Throws Error, also for what the peer says of our certificate: in TLS 1.3 it
  /// judges that when our handshake is over.
  virtual ssize_t receive(std::span<const iovec> parts) = 0;
  /// Whether receive() has something to say; of what has been decrypted poll() does not know.
  /// Throws Error.
  virtual bool readable() = 0;
  /// The kernel encrypts and decrypts.
  virtual bool in_kernel() const = 0;
};

class Handshake {
 public:
  Handshake() = default;
  virtual ~Handshake() = default;
  Handshake(const Handshake&) = delete;
  Handshake& operator=(const Handshake&) = delete;

  /// Goes on: 0 when it is over, else the events to poll() the socket for before the next step.
  /// Throws Error.
  virtual short step() = 0;
  /// After the last step; once.
  virtual std::unique_ptr<Stream> finish() = 0;
};

}  // namespace godwit::tls
