// The godwit binary: see commands.cc for its subcommands.
#include <fcntl.h>
#include <unistd.h>

#include "node/commands.h"
#include "node/start_clock.h"
#include "node/succession.h"

int main(int argc, char** argv) {
  godwit::node::start_clock();
  // A descriptor of ours must never be taken for a standard stream that was closed.
  for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; ++fd) {
    if (::fcntl(fd, F_GETFD) < 0 && ::open("/dev/null", O_RDWR) < 0) return 1;
  }
  return godwit::node::await_successors(godwit::node::dispatch(argc, argv));
}
