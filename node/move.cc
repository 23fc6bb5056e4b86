#include "node/move.h"

#include <nlohmann/json.hpp>

namespace godwit::node {

struct Move::Impl {};

Move::Move(vmm::Machine& /*machine*/, const MoveRequest& /*request*/) {
  throw BadRequest("moves are not in this build yet");
}
Move::~Move() = default;
Move::End Move::run() { return End::kHere; }
void Move::cancel() {}
nlohmann::json Move::progress() const { return {}; }
nlohmann::json Move::report() const { return {}; }

}  // namespace godwit::node
