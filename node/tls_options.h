// --tls-cert, --tls-key and --tls-ca: the certificates by which guests move.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "migration/tls/tls.h"
#include "node/options.h"

namespace godwit::node {

/// `what`: what goes by TLS with them.
void add_tls_options(Options& options, const std::string& what);
/// With absolute paths. Throws UsageError when only some are given or a file cannot be read.
std::optional<tls::Files> tls_files(const Options& options);
/// The options that say the same.
std::vector<std::string> tls_words(const tls::Files& files);

}  // namespace godwit::node
