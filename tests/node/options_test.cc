#include "node/options.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "node/device_options.h"
#include "node/machine_options.h"
#include "vmm/mac_address.h"

namespace godwit::node {
namespace {

Options sample() {
  Options options("sample NAME", "A sample.", "");
  options.value("memory", "SIZE", "memory", "256M")
      .value("timeout", "TIME", "time")
      .values("disk", "PATH", "disks")
      .flag("verbose", "talk")
      .argument("NAME");
  return options;
}

std::string complaint(const std::vector<std::string>& words) {
  Options options = sample();
  try {
    options.parse(words);
    if (options.has("timeout")) options.time_ns("timeout");
    options.size("memory");
  } catch (const UsageError& error) {
    return error.what();
  }
  return "none";
}

class ConfigFile {
 public:
  explicit ConfigFile(const std::string& content)
      : path_(testing::TempDir() + "godwit_options." + std::to_string(::getpid())) {
    std::ofstream(path_) << content;
  }
  ~ConfigFile() { std::filesystem::remove(path_); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

TEST(Options, ReadsValuesFlagsListsAndTheArgument) {
  Options options = sample();
  ASSERT_TRUE(options.parse({"web1", "--memory", "1G", "--disk=a", "--disk", "b", "--verbose"}));
  EXPECT_EQ(options.text("NAME"), "web1");
  EXPECT_EQ(options.size("memory"), 1ull << 30);
  EXPECT_EQ(options.all("disk"), (std::vector<std::string>{"a", "b"}));
  EXPECT_TRUE(options.on("verbose"));
  EXPECT_FALSE(options.has("timeout"));
}

TEST(Options, NameTheFlagThatIsWrong) {
  EXPECT_EQ(complaint({"web1", "--memory", "12"}), "--memory: 12 lacks a unit, such as 256M or 2G");
  EXPECT_EQ(complaint({"web1", "--timeout", "soon"}),
            "--timeout: \"soon\" is not a time, such as 50ms or 60s");
  EXPECT_EQ(complaint({"web1", "--memory"}), "--memory: lacks a value");
  EXPECT_EQ(complaint({"web1", "--memory", "1G", "--memory", "2G"}), "--memory: given twice");
  EXPECT_EQ(complaint({"web1", "--colour"}), "unknown option --colour");
  EXPECT_EQ(complaint({"web1", "--mem", "1G"}), "unknown option --mem");
  EXPECT_EQ(complaint({"web1", "web2"}), "too many arguments");
  EXPECT_EQ(complaint({}), "NAME is missing: godwit sample NAME");
}

TEST(Options, TakeTheConfigurationFileUnlessTheCommandLineSaysOtherwise) {
  const ConfigFile file(
      "# a guest\nmemory = 2G\ntimeout = 5s\ndisk = a\ndisk = b\nverbose = true\n");
  Options options = sample();
  ASSERT_TRUE(options.parse({"web1", "--config", file.path(), "--timeout", "7s"}));
  EXPECT_EQ(options.size("memory"), 2ull << 30);
  EXPECT_EQ(options.time_ns("timeout"), 7'000'000'000u);
  EXPECT_EQ(options.all("disk").size(), 2u);
  EXPECT_TRUE(options.on("verbose"));
}

TEST(Options, RefuseABadConfigurationFileInOneLine) {
  const ConfigFile unknown("colour = red\n");
  EXPECT_EQ(complaint({"web1", "--config", unknown.path()}),
            "--config: " + unknown.path() + ": unknown option colour");
  EXPECT_EQ(complaint({"web1", "--config", "/nowhere/x.ini"}),
            "--config: cannot read /nowhere/x.ini");
  EXPECT_EQ(complaint({"web1", "--config", "/"}), "--config: cannot read /");
  const ConfigFile garbage("]]]\n");
  EXPECT_EQ(complaint({"web1", "--config", garbage.path()}).rfind("--config: ", 0), 0u);
}

class MachineOptions : public testing::Test {
 protected:
  MachineOptions() {
    std::string elf(64, '\0');
    elf.replace(0, 4, "\177ELF");
    std::ofstream(kernel_) << elf;
    std::ofstream(disk_) << "image";
    std::ofstream(text_) << "just a text";
  }
  ~MachineOptions() override {
    for (const auto& path : {kernel_, disk_, text_}) std::filesystem::remove(path);
  }

  std::string complaint(std::vector<std::string> words) {
    Options options("run", "", "");
    add_machine_options(options);
    for (const auto& [flag, value] :
         {std::pair<std::string, std::string>{"--name", "web1"}, {"--kernel", kernel_}}) {
      if (std::find(words.begin(), words.end(), flag) == words.end()) {
        words.insert(words.end(), {flag, value});
      }
    }
    try {
      options.parse(words);
      config_ = machine_config(options);
    } catch (const UsageError& error) {
      return error.what();
    }
    return "none";
  }

  std::string base_ = testing::TempDir() + "godwit_machine_" + std::to_string(::getpid());
  std::string kernel_ = base_ + ".elf";
  std::string disk_ = base_ + ".img";
  std::string text_ = base_ + ".txt";
  vmm::MachineConfig config_;
};

TEST_F(MachineOptions, DescribeAMachine) {
  EXPECT_EQ(complaint({"--memory", "512M", "--cpus", "2", "--disk", disk_ + ",readonly"}), "none");
  EXPECT_EQ(config_.memory_bytes, 512ull << 20);
  EXPECT_EQ(config_.cpus, 2u);
  EXPECT_EQ(config_.disks, (std::vector<vmm::DiskConfig>{{disk_, true}}));
  EXPECT_EQ(config_.name, "web1");
}

TEST_F(MachineOptions, DescribeDisks) {
  EXPECT_EQ(complaint({"--disk", disk_ + ",serial=root-1,cache=none,readonly"}), "none");
  ASSERT_EQ(config_.disks, (std::vector<vmm::DiskConfig>{{disk_, true, true, "root-1"}}));
  EXPECT_EQ(disk_text(config_.disks[0]), disk_ + ",readonly,cache=none,serial=root-1");
  EXPECT_EQ(complaint({"--disk", disk_ + ",cache=writeback"}), "none");
  EXPECT_FALSE(config_.disks[0].direct);
  EXPECT_EQ(complaint({"--disk", disk_ + ",cache=fast"}),
            "--disk: cache=fast: there are cache=writeback and cache=none");
  for (const std::string bad : {"", "a/b", "123456789012345678901"}) {
    EXPECT_EQ(complaint({"--disk", disk_ + ",serial=" + bad}),
              "--disk: serial=" + bad + ": must be 1 to 20 of A-Z a-z 0-9 . _ -");
  }
}

TEST_F(MachineOptions, RenewMacAddressesByName) {
  config_ = {};
  config_.name = "web1";
  config_.nets = {{"t0", vmm::derived_mac("web1", 0), 0, ""}, {"t1", "02:00:00:00:00:08", 0, ""}};
  EXPECT_THROW(renew_macs(config_), UsageError);
  config_.name = "web2";
  renew_macs(config_);
  EXPECT_EQ(config_.nets[0].mac, vmm::derived_mac("web2", 0));
  EXPECT_EQ(config_.nets[1].mac, vmm::derived_mac("web2", 1));
}

TEST_F(MachineOptions, DescribeDevices) {
  EXPECT_EQ(
      complaint({"--net", "tap=t0", "--net", "mtu=9000,bridge=br0,tap=t1,mac=02:00:00:00:00:07",
                 "--rng", "--balloon", "--vsock", "path=/tmp/v.sock,cid=3"}),
      "none");
  ASSERT_EQ(config_.nets.size(), 2u);
  EXPECT_EQ(config_.nets[0], (vmm::NetConfig{"t0", vmm::derived_mac("web1", 0), 0, ""}));
  EXPECT_EQ(config_.nets[1], (vmm::NetConfig{"t1", "02:00:00:00:00:07", 9000, "br0"}));
  EXPECT_EQ(net_text(config_.nets[1]), "tap=t1,mac=02:00:00:00:00:07,mtu=9000,bridge=br0");
  EXPECT_TRUE(config_.rng && config_.balloon);
  EXPECT_EQ(config_.vsock, (vmm::VsockConfig{3, "/tmp/v.sock"}));
}

TEST_F(MachineOptions, RefuseDevicesThatMakeNoSense) {
  EXPECT_EQ(complaint({"--net", "tap=t0", "--net", "tap=t0"}), "--net: tap t0 is given twice");
  EXPECT_EQ(complaint({"--net", "tap=t0,mtu=65522"}),
            "--net: mtu must be a whole number from 68 to 65521");
  EXPECT_EQ(complaint({"--vsock", "cid=2,path=/tmp/v"}),
            "--vsock: cid must be a whole number from 3 to 4294967294");
  EXPECT_EQ(complaint({"--vsock", "cid=3"}), "--vsock: path=SOCKET is missing");
  EXPECT_EQ(complaint({"--vsock", "path=/tmp/v"}),
            "--vsock: cid must be a whole number from 3 to 4294967294");
}

TEST_F(MachineOptions, ReplaceDevicesOnArrival) {
  const auto arrive = [this](const std::vector<std::string>& words) -> std::string {
    Options options("receive", "", "");
    add_arrival_options(options);
    try {
      options.parse(words);
      replace_devices(config_, arrival(options));
    } catch (const std::runtime_error& error) {
      return error.what();
    }
    return "none";
  };
  config_ = {};
  EXPECT_EQ(arrive({}), "none");
  EXPECT_EQ(arrive({"--vsock", "path=/tmp/w"}), "--vsock is given here, the guest has none");
  config_.nets = {{"t0", "02:00:00:00:00:07", 9000, "br0"}, {"t1", "02:00:00:00:00:08", 0, ""}};
  config_.vsock = {3, "/tmp/v"};
  EXPECT_EQ(arrive({"--net", "tap=u0", "--vsock", "path=/tmp/w"}), "none");
  EXPECT_EQ(config_.nets[0], (vmm::NetConfig{"u0", "02:00:00:00:00:07", 9000, ""}));
  EXPECT_EQ(config_.nets[1].tap, "t1");
  EXPECT_EQ(config_.vsock, (vmm::VsockConfig{3, "/tmp/w"}));
  EXPECT_EQ(arrive({"--net", "tap=u0,mac=02:00:00:00:00:09"}),
            "--net: unknown field \"mac\": it has tap, bridge");
}

TEST_F(MachineOptions, RefuseMemoryNoGuestCanHave) {
  EXPECT_EQ(complaint({"--memory", "0"}), "--memory: 0 is too small: at least 2M");
  EXPECT_EQ(complaint({"--memory", "1M"}), "--memory: 1M is too small: at least 2M");
  EXPECT_EQ(complaint({"--memory", "3M"}), "--memory: 3M is no multiple of 2M");
  EXPECT_EQ(complaint({"--memory", "17T"}).rfind("--memory: 17T is more than this host has (", 0),
            0u);
}

TEST_F(MachineOptions, RefuseWhatIsNoKernel) {
  EXPECT_EQ(complaint({"--kernel", "/nowhere"}), "--kernel: /nowhere: No such file or directory");
  EXPECT_EQ(complaint({"--kernel", text_}),
            "--kernel: " + text_ + " is no kernel: neither a bzImage nor a PVH ELF image");
  EXPECT_EQ(complaint({"--kernel", "/tmp"}), "--kernel: /tmp is a directory");
}

TEST_F(MachineOptions, RefuseDisksThatAreNone) {
  EXPECT_EQ(complaint({"--disk", "/nowhere"}), "--disk: /nowhere: No such file or directory");
  EXPECT_EQ(complaint({"--disk", "/dev/null"}),
            "--disk: /dev/null is neither an image file nor a block device");
  EXPECT_EQ(complaint({"--disk", disk_, "--disk", disk_}), "--disk: " + disk_ + " is given twice");
}

TEST_F(MachineOptions, RefuseBadNamesAndCpus) {
  EXPECT_EQ(complaint({"--name", "a/b"}).rfind("--name: a guest's name is 1 to 64 of", 0), 0u);
  EXPECT_EQ(complaint({"--name", std::string(65, 'a')}).rfind("--name: ", 0), 0u);
  EXPECT_EQ(complaint({"--cpus", "17"}), "--cpus: \"17\" is not a number from 1 to 16");
  EXPECT_EQ(complaint({"--append", std::string(3000, 'a')}),
            "--append: 3000 characters are too many: at most 2047");
}

}  // namespace
}  // namespace godwit::node
