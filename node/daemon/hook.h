// A command of the configuration: what powers this host down, what wakes another.
#pragma once

#include <chrono>
#include <string>

namespace godwit::node {

/// Runs `command` by the shell with `argument` as $1, in a process group of its own and with none
/// of our descriptors but standard output and error, and waits for it. What is left of the group
/// after `limit` is killed. Returns why it did not work in words for a person, empty if it exited
/// with 0. Blocks; any thread.
std::string run_hook(const std::string& command, const std::string& argument,
                     std::chrono::milliseconds limit);

}  // namespace godwit::node
