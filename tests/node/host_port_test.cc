#include "node/host_port.h"

#include <gtest/gtest.h>

#include <stdexcept>

#include "node/listener.h"

namespace godwit::node {
namespace {

TEST(HostPort, TakesNamesAddressesAndBrackets) {
  EXPECT_EQ(parse_host_port("b:7000").host, "b");
  EXPECT_EQ(parse_host_port("b:7000").port, 7000);
  EXPECT_EQ(parse_host_port("[::1]:65535").host, "::1");
  EXPECT_EQ(parse_host_port("[::1]:65535").port, 65535);
  EXPECT_EQ(parse_host_port(":0").host, "");
}

TEST(HostPort, RefusesAllElse) {
  for (const auto* bad : {"", "host", "b:", "b:x", "b:65536", "b:-1", "::1:7000", "[::1:7000",
                          "[]:1", "a]b:1", "b:1 ", "b:99999999999999999999"}) {
    EXPECT_THROW(parse_host_port(bad), std::invalid_argument) << bad;
    EXPECT_NE(destination_complaint(bad), "") << bad;
  }
  EXPECT_NE(destination_complaint(":7000"), "");
  EXPECT_NE(destination_complaint("b:0"), "");
  EXPECT_EQ(destination_complaint("b:1"), "");
}

TEST(Listener, NamesItsRealPort) {
  const Listener four("127.0.0.1:0");
  EXPECT_EQ(four.address().rfind("127.0.0.1:", 0), 0u);
  EXPECT_NE(four.address(), "127.0.0.1:0");
  const Listener six("[::1]:0");
  EXPECT_EQ(six.address().rfind("[::1]:", 0), 0u);
}

TEST(Listener, SaysThatAPortIsBusy) {
  const Listener first("127.0.0.1:0");
  try {
    const Listener second(first.address());
    FAIL() << "two listeners on one port";
  } catch (const std::runtime_error& error) {
    EXPECT_EQ(error.what(), first.address() + ": Address already in use");
  }
}

TEST(Listener, StopsWaitingWhenTold) {
  const Listener listener("127.0.0.1:0");
  const sys::EventFd stop;
  stop.signal();
  EXPECT_FALSE(listener.accept(stop));
}

}  // namespace
}  // namespace godwit::node
