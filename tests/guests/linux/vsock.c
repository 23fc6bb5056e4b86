/* Echoes over AF_VSOCK: `vsock listen PORT` takes one connection after the other, `vsock connect
 * PORT` makes one to the host. Ends, after "echoed N bytes (END)", with the connection that it
 * made; a listener goes on. */
#include <errno.h>
#include <linux/vm_sockets.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void fail(const char* what) {
  printf("%s: %s\n", what, strerror(errno));
  exit(1);
}

static void echo(int fd) {
  static char buffer[16384];
  long total = 0;
  ssize_t got;
  while ((got = read(fd, buffer, sizeof buffer)) > 0) {
    for (ssize_t at = 0; at < got;) {
      const ssize_t put = write(fd, buffer + at, (size_t)(got - at));
      if (put <= 0) fail("write");
      at += put;
    }
    total += got;
  }
  printf("echoed %ld bytes (%s)\n", total, got == 0 ? "end" : strerror(errno));
  close(fd);
}

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  setvbuf(stdout, NULL, _IOLBF, 0);
  const int fd = socket(AF_VSOCK, SOCK_STREAM, 0);
  if (fd < 0) fail("socket");
  struct sockaddr_vm address = {.svm_family = AF_VSOCK, .svm_port = (unsigned)atoi(argv[2])};
  if (strcmp(argv[1], "connect") == 0) {
    address.svm_cid = VMADDR_CID_HOST;
    if (connect(fd, (struct sockaddr*)&address, sizeof address) != 0) fail("connect");
    echo(fd);
    return 0;
  }
  address.svm_cid = VMADDR_CID_ANY;
  if (bind(fd, (struct sockaddr*)&address, sizeof address) != 0) fail("bind");
  if (listen(fd, 4) != 0) fail("listen");
  puts("listening");
  for (;;) {
    const int connection = accept(fd, NULL, NULL);
    if (connection < 0) fail("accept");
    echo(connection);
  }
}
