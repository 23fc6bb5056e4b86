// The exit codes of every godwit command; docs/api.md and each command's --help list them.
#pragma once

namespace godwit::node {

enum ExitCode : int {
  kExitOk = 0,
  kExitFailure = 1,         // it did not work; one line on stderr says why
  kExitUsage = 2,           // the command line or the configuration file is wrong; nothing was done
  kExitMoveFailed = 3,      // the move failed; the guest goes on here, unless it ended by itself
  kExitCancelled = 4,       // the move was cancelled; the guest goes on here
  kExitInDoubt = 5,         // the connection was lost while committing; see `godwit resolve`
  kExitPanicked = 6,        // the guest powered off or was stopped, its kernel had panicked
  kExitPostCopyPaused = 7,  // the guest runs at the destination, memory that it lacks is here
  kExitWouldNotConverge = 8,  // a dry run: the move would not end
  kExitNodeLost = 9,          // the node ended during a move, which goes on without it
  kExitSignal = 128,          // + n: ended by signal n
};

}  // namespace godwit::node
