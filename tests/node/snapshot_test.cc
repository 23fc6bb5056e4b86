// `godwit snapshot` and `restore` as a user meets them: real binaries, a small guest of our own.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "migration/snapshot_file.h"
#include "node/control_client.h"
#include "tests/node/process.h"

namespace godwit::node {
namespace {

using nlohmann::json;
using Words = std::vector<std::string>;

class SnapshotCommandTest : public testing::Test {
 protected:
  SnapshotCommandTest() {
    std::filesystem::create_directories(dir_);
    std::ofstream(disk_) << std::string(1 << 16, 'd');
  }
  ~SnapshotCommandTest() override { std::filesystem::remove_all(dir_); }

  Words run_words(const Words& more = {}) const {
    Words words{"run",
                "--name",
                "web1",
                "--kernel",
                std::string(GODWIT_GUESTS) + "/pattern.elf",
                "--append",
                "mib=2 rate=4 tick=50",
                "--memory",
                "64M",
                "--api",
                socket("web1")};
    words.insert(words.end(), more.begin(), more.end());
    return words;
  }
  Words restore_words(const std::string& name, const Words& more = {}) const {
    Words words{"restore", snapshot_, "--name", name, "--api", socket(name)};
    words.insert(words.end(), more.begin(), more.end());
    return words;
  }
  std::string socket(const std::string& name) const { return dir_ + "/" + name + ".sock"; }
  static std::string state(const std::string& socket) {
    return ControlClient(socket).get("/v1/status")["state"];
  }
  /// What it says on its one line of stderr.
  static std::string complaint(const Words& words, int code = 1) {
    Process process(words);
    EXPECT_EQ(process.wait(), code) << process.err();
    EXPECT_EQ(std::count(process.err().begin(), process.err().end(), '\n'), 1) << process.err();
    return process.err();
  }

  const std::string dir_ = testing::TempDir() + "godwit_snapshots_" + std::to_string(::getpid());
  const std::string snapshot_ = dir_ + "/snapshot";
  const std::string disk_ = dir_ + "/disk";
};

TEST_F(SnapshotCommandTest, ManyGuestsRunFromOneSnapshotWhileTheFirstRunsOn) {
  Process guest(run_words());
  ASSERT_TRUE(guest.printed("tick 3 "));
  Process taken({"snapshot", socket("web1"), snapshot_, "--json"});
  ASSERT_EQ(taken.wait(), 0) << taken.err();
  const json report = json::parse(taken.out());
  EXPECT_EQ(report["status"], "completed");
  EXPECT_EQ(report["directory"], snapshot_);
  EXPECT_EQ(report["guest_state"], "running");
  EXPECT_GT(report["pause_ms"], 0.0);
  EXPECT_EQ(std::filesystem::file_size(snapshot_ + "/memory"),
            (64u << 20) + sizeof(migration::MemoryTrailer));

  Process first(restore_words("web2", {"--verify"}));
  Process second(restore_words("web3", {"--verbose"}));
  for (Process* restored : {&first, &second}) {
    EXPECT_TRUE(restored->printed("tick ")) << restored->err();
    restored->type("v");
    EXPECT_TRUE(restored->printed("verified")) << restored->out();
    EXPECT_EQ(restored->out().find("tick 0 "), std::string::npos) << "it booted";
    EXPECT_EQ(restored->out().find("CORRUPT"), std::string::npos) << restored->out();
  }
  EXPECT_NE(second.err().find("first guest instruction"), std::string::npos) << second.err();
  EXPECT_EQ(state(socket("web1")), "running");
  first.type("r");  // boots the kernel that the snapshot names
  EXPECT_TRUE(first.printed("tick 0 ")) << first.err();
  for (Process* ending : {&guest, &first, &second}) {
    ending->type("q");
    EXPECT_EQ(ending->wait(), 0);
  }
}

TEST_F(SnapshotCommandTest, ADiskBelongsToOneGuestAndToTheTimeOfTheSnapshot) {
  Process guest(run_words({"--disk", disk_}));
  ASSERT_TRUE(guest.printed("tick 1 "));
  ASSERT_EQ(Process({"snapshot", socket("web1"), snapshot_}).wait(), 0);
  EXPECT_NE(complaint(restore_words("web2")).find(disk_), std::string::npos);
  std::filesystem::copy_file(disk_, dir_ + "/copy");
  {
    Process restored(restore_words("web2", {"--disk", dir_ + "/copy"}));
    EXPECT_TRUE(restored.printed("tick ")) << restored.err();
  }
  EXPECT_EQ(Process({"stop", "--force", socket("web1")}).wait(), 0);
  EXPECT_EQ(guest.wait(), 0);
  {
    Process restored(restore_words("web2"));
    EXPECT_TRUE(restored.printed("tick ")) << restored.err();
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(20));  // file times tick coarsely
  std::fstream(disk_) << "w";
  EXPECT_NE(complaint(restore_words("web2")).find("written to since the snapshot"),
            std::string::npos);
  EXPECT_NE(complaint(restore_words("web2", {"--disk", disk_, "--disk", disk_}), 2).find("--disk"),
            std::string::npos);
}

TEST_F(SnapshotCommandTest, StopsTheGuestWhenAskedTo) {
  Process guest(run_words({"--disk", disk_}));
  ASSERT_TRUE(guest.printed("tick 1 "));
  ASSERT_EQ(Process({"snapshot", socket("web1"), snapshot_, "--stop"}).wait(), 0);
  EXPECT_EQ(guest.wait(), 0);
  EXPECT_EQ(guest.err(), "godwit: run: stopped; its snapshot is " + snapshot_ + "\n");
  Process restored({"restore", snapshot_, "--api", socket("web1")});
  EXPECT_TRUE(restored.printed("tick ")) << restored.err();
  EXPECT_EQ(ControlClient(socket("web1")).get("/v1/status")["name"], "web1");
}

TEST_F(SnapshotCommandTest, RefusesWhatIsNoSnapshotWithOneLine) {
  EXPECT_NE(complaint({"restore", dir_ + "/nothing"}).find("/nothing/state: No such file"),
            std::string::npos);
  std::filesystem::create_directory(dir_ + "/other");
  std::ofstream(dir_ + "/other/state") << "hello, hello, hello, hello, hello, hello";
  EXPECT_NE(complaint({"restore", dir_ + "/other"}).find("is no snapshot of Godwit"),
            std::string::npos);
  Process guest(run_words());
  ASSERT_TRUE(guest.printed("tick 1 "));
  EXPECT_NE(complaint({"snapshot", socket("web1"), dir_}).find("exists"), std::string::npos);
  ASSERT_EQ(Process({"snapshot", socket("web1"), snapshot_}).wait(), 0);
  const std::string other = dir_ + "/snapshot2";
  ASSERT_EQ(Process({"snapshot", socket("web1"), other}).wait(), 0);
  std::filesystem::rename(snapshot_ + "/memory", snapshot_ + "/own");
  std::filesystem::copy_file(other + "/memory", snapshot_ + "/memory");
  EXPECT_NE(complaint(restore_words("web2")).find("memory: of another snapshot than"),
            std::string::npos);
  std::filesystem::rename(snapshot_ + "/own", snapshot_ + "/memory");
  {  // a page lost without a trace in its size
    const sys::UniqueFd memory(::open((snapshot_ + "/memory").c_str(), O_RDWR));
    const off_t data = ::lseek(memory.get(), 2 << 20, SEEK_DATA);
    ASSERT_GE(data, 0);
    ASSERT_EQ(::pwrite(memory.get(), "damaged", 7, data + 100), 7);
  }
  EXPECT_NE(complaint(restore_words("web2", {"--verify"})).find("its checksum does not match"),
            std::string::npos);
  std::filesystem::resize_file(snapshot_ + "/memory", 1 << 20);
  EXPECT_NE(complaint(restore_words("web2")).find("truncated"), std::string::npos);
}

}  // namespace
}  // namespace godwit::node
