// What the kernel encrypts and decrypts (Documentation/networking/tls.rst): the socket's own system
// calls carry plain bytes. Part of godwit_tls.so.
#pragma once

#include <memory>
#include <string>

#include "migration/tls/stream.h"
#include "migration/tls/traffic_keys.h"

namespace godwit::tls {

/// Gives the keys to the kernel, whose record numbers begin at 0; null where it does not take them,
/// the socket is then as before. Throws Error when it takes only one of the two.
std::unique_ptr<Stream> kernel_stream(int socket, const TrafficKey& sends,
                                      const TrafficKey& receives, const std::string& who);

}  // namespace godwit::tls
