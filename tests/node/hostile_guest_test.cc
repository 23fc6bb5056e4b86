// A guest that attacks every device it has, in the real binary: it must end by its own power-off,
// having seen devices break, and the host must have nothing to say. Built with sanitizers, too.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "tests/node/process.h"

namespace godwit::node {
namespace {

TEST(HostileGuest, BreaksItsDevicesAndNothingElse) {
  const std::string dir = testing::TempDir() + "godwit_hostile_" + std::to_string(::getpid());
  std::filesystem::create_directories(dir);
  for (const char* disk : {"/a", "/b"}) std::ofstream(dir + disk) << std::string(1 << 20, 'd');
  std::uint64_t broken = 0;
  for (unsigned seed = 1; seed <= 4; ++seed) {
    Process guest({"run",
                   "--name",
                   "hostile",
                   "--kernel",
                   std::string(GODWIT_GUESTS) + "/hostile.elf",
                   "--append",
                   "ms=2000 ram=64 seed=" + std::to_string(seed),
                   "--memory",
                   "64M",
                   "--disk",
                   dir + "/a",
                   "--disk",
                   dir + "/b,readonly",
                   "--rng",
                   "--balloon",
                   "--vsock",
                   "cid=7,path=" + dir + "/v",
                   "--hvc",
                   "file:" + dir + "/hvc",
                   "--api",
                   dir + "/api.sock"});
    const int code = guest.wait();
    EXPECT_TRUE(code == 0 || code == 6) << "seed " << seed << ": " << code << '\n' << guest.err();
    const std::size_t at = guest.out().find("needs reset ");
    ASSERT_NE(at, std::string::npos) << "seed " << seed << '\n' << guest.out() << guest.err();
    broken += std::stoul(guest.out().substr(at + 12));
    EXPECT_NE(guest.out().find("hostile: 6 virtio devices"), std::string::npos);
    const std::string allowed = code == 6 ? "godwit: run: the guest's kernel had panicked\n" : "";
    EXPECT_EQ(guest.err(), allowed);
  }
  EXPECT_GT(broken, 0u);
  std::ifstream read_only(dir + "/b");
  EXPECT_EQ(std::string(std::istreambuf_iterator<char>(read_only), {}), std::string(1 << 20, 'd'));
  std::filesystem::remove_all(dir);
}

}  // namespace
}  // namespace godwit::node
