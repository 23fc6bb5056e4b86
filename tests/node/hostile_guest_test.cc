// A guest that attacks every device it has, in the real binary: it must end by its own power-off,
// having seen devices break, and the host must have nothing to say. Built with sanitizers, too.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iostream>
#include <map>
#include <regex>
#include <string>
#include <vector>

#include "tests/node/process.h"

namespace godwit::node {
namespace {

TEST(HostileGuest, BreaksItsDevicesAndNothingElse) {
  const std::string dir = testing::TempDir() + "godwit_hostile_" + std::to_string(::getpid());
  std::filesystem::create_directories(dir);
  for (const char* disk : {"/a", "/b"}) std::ofstream(dir + disk) << std::string(1 << 20, 'd');
  const bool taps = ::geteuid() == 0 && ::access("/dev/net/tun", R_OK | W_OK) == 0;
  if (!taps) std::cout << "no tap can be made here: the guest has no network card to attack\n";
  const std::vector<std::string> net = {"--net", "tap=gwh" + std::to_string(::getpid())};
  std::map<unsigned, std::uint64_t> broken;  // by virtio device ID
  for (unsigned seed = 1; seed <= 4; ++seed) {
    std::vector<std::string> words = {"run",
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
                                      dir + "/api.sock"};
    if (taps) words.insert(words.end(), net.begin(), net.end());
    Process guest(words);
    const int code = guest.wait();
    EXPECT_TRUE(code == 0 || code == 6) << "seed " << seed << ": " << code << '\n' << guest.err();
    const std::string out = guest.out();
    const std::regex line("device ([0-9]+) needs reset ([0-9]+)");
    for (std::sregex_iterator at(out.begin(), out.end(), line), end; at != end; ++at) {
      broken[static_cast<unsigned>(std::stoul((*at)[1]))] += std::stoul((*at)[2]);
    }
    EXPECT_NE(out.find("hostile: done"), std::string::npos) << out << guest.err();
    const std::string allowed = code == 6 ? "godwit: run: the guest's kernel had panicked\n" : "";
    EXPECT_EQ(guest.err(), allowed);
  }
  std::vector<unsigned> attacked = {2, 3, 4, 5, 19};  // block, console, entropy, balloon, socket
  if (taps) attacked.push_back(1);                    // network
  for (const unsigned id : attacked) EXPECT_GT(broken[id], 0u) << "virtio device " << id;
  std::ifstream read_only(dir + "/b");
  EXPECT_EQ(std::string(std::istreambuf_iterator<char>(read_only), {}), std::string(1 << 20, 'd'));
  std::filesystem::remove_all(dir);
}

}  // namespace
}  // namespace godwit::node
