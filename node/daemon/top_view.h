// A node for people: what GET /v1/node says, as a frame of `godwit top`. Hosts with their load
// against capacity, guests, moves in flight, last decisions.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

namespace godwit::node {

/// At most `rows` lines of at most `columns` columns, each ending in '\n'; 0 of either for as many
/// as it takes. What does not fit is cut ("~") or counted ("... 12 more guests"). In a bar '#' is
/// the load now and '|' the forecast; a bar that ends in '>' stands for more than there is.
/// `colour`: with SGR sequences. Whatever `node` is, the frame holds no control character of it.
/// Pure.
std::string render_top(const nlohmann::json& node, unsigned columns, unsigned rows, bool colour);

}  // namespace godwit::node
