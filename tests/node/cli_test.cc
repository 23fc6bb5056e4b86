// The real binary with bad input: every mistake ends in one line on stderr that names the command
// and the culprit, and in the documented exit code.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "node/commands.h"
#include "vmm/sys/unique_fd.h"

namespace godwit::node {
namespace {

struct Result {
  int code = -1;  // exit code, or -signal
  std::string out;
  std::string err;
};

std::string slurp(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

class Cli : public testing::Test {
 protected:
  Cli() {
    std::filesystem::create_directories(dir_);
    std::string elf(4096, '\0');
    elf.replace(0, 4, "\177ELF");
    std::ofstream(dir_ + "/broken.elf") << elf;
    std::ofstream(dir_ + "/text") << "no kernel";
    std::ofstream(dir_ + "/disk.img") << std::string(4096, '\0');
    ::setenv("XDG_RUNTIME_DIR", dir_.c_str(), 1);
  }
  ~Cli() override { std::filesystem::remove_all(dir_); }

  /// Runs `godwit WORDS...` with stdin from /dev/null; the time limit of the test ends one that
  /// hangs.
  Result godwit(const std::vector<std::string>& words) const {
    const pid_t child = ::fork();
    if (child == 0) {
      const int in = ::open("/dev/null", O_RDONLY);
      const int out = ::open((dir_ + "/out").c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
      const int err = ::open((dir_ + "/err").c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
      ::dup2(in, 0);
      ::dup2(out, 1);
      ::dup2(err, 2);
      std::vector<char*> argv{const_cast<char*>("godwit")};
      for (const auto& word : words) argv.push_back(const_cast<char*>(word.c_str()));
      argv.push_back(nullptr);
      ::execv(GODWIT_BINARY, argv.data());
      ::_exit(127);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status), slurp(dir_ + "/out"),
            slurp(dir_ + "/err")};
  }

  /// The one line of a run that must fail with `code`.
  std::string line(int code, const std::vector<std::string>& words) const {
    const Result result = godwit(words);
    EXPECT_EQ(result.code, code) << result.err;
    EXPECT_EQ(result.out, "");
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
    return result.err.substr(0, result.err.find('\n'));
  }

  std::vector<std::string> run(std::vector<std::string> more) const {
    std::vector<std::string> words{"run", "--name", "web1"};
    if (std::find(more.begin(), more.end(), "--kernel") == more.end()) {
      words.insert(words.end(), {"--kernel", dir_ + "/broken.elf"});
    }
    words.insert(words.end(), more.begin(), more.end());
    return words;
  }

  std::string dir_ = testing::TempDir() + "godwit_cli_" + std::to_string(::getpid());
};

TEST_F(Cli, PrintsItsVersion) {
  const Result result = godwit({"--version"});
  EXPECT_EQ(result.code, 0);
  EXPECT_EQ(result.out.rfind("godwit 0.", 0), 0u) << result.out;
}

TEST_F(Cli, ExplainsEveryCommand) {
  for (const Command& command : commands()) {
    const std::string name(command.name);
    const Result result = godwit({name, "--help"});
    EXPECT_EQ(result.code, 0) << name;
    EXPECT_EQ(result.out.rfind("Usage: godwit " + name, 0), 0u) << result.out;
    EXPECT_NE(result.out.find("Exit codes:"), std::string::npos) << name;
    EXPECT_EQ(result.err, "");
    EXPECT_NE(slurp(GODWIT_README).find('`' + name + '`'), std::string::npos)
        << name << " is not in README.md";
  }
  EXPECT_EQ(godwit({"--help"}).code, 0);
}

TEST_F(Cli, EveryCommandToANodeSaysWhenNoneServes) {
  const std::string none = dir_ + "/node.api";
  for (const Words& words : {Words{"top"}, Words{"drain"}, Words{"undrain"}, Words{"mode"},
                             Words{"explain"}, Words{"migrate", "web1", "--to", "b"}}) {
    Words all = words;
    all.insert(all.end(), {"--node", none});
    EXPECT_EQ(line(1, all), "godwit: " + words[0] + ": no node: there is no " + none +
                                "; `godwit node` starts one, --node says where it serves");
  }
  EXPECT_EQ(line(1, {"top", "--once", "--node", dir_ + "/text"}).find("godwit: top: no node: "),
            0u);
  EXPECT_EQ(line(2, {"top", "--interval", "1ms"}), "godwit: top: --interval: from 100ms to 60min");
}

TEST_F(Cli, RefusesCommandsThatAreNone) {
  EXPECT_EQ(line(2, {"fly"}), "godwit: fly is no command; godwit --help lists them");
  EXPECT_EQ(godwit({}).code, 2);
}

TEST_F(Cli, RefusesMemoryNoGuestCanHave) {
  EXPECT_EQ(line(2, run({"--memory", "0"})), "godwit: run: --memory: 0 is too small: at least 2M");
  EXPECT_EQ(line(2, run({"--memory", "17TB"}))
                .rfind("godwit: run: --memory: 17T is more than this host has", 0),
            0u);
  EXPECT_EQ(line(2, run({"--memory", "lots"})),
            "godwit: run: --memory: \"lots\" is not a size, such as 256M or 2G");
  EXPECT_EQ(line(2, run({"--memory", "256"})),
            "godwit: run: --memory: 256 lacks a unit, such as 256M or 2G");
}

TEST_F(Cli, RefusesKernelsThatAreNone) {
  EXPECT_EQ(line(2, {"run", "--name", "web1"}), "godwit: run: --kernel: is missing");
  EXPECT_EQ(line(2, run({"--kernel", "/nowhere"})),
            "godwit: run: --kernel: /nowhere: No such file or directory");
  EXPECT_EQ(line(2, run({"--kernel", dir_ + "/text"})),
            "godwit: run: --kernel: " + dir_ +
                "/text is no kernel: neither a bzImage nor a PVH ELF image");
}

TEST_F(Cli, RefusesAnElfFileThatOnlyLooksLikeAKernel) {
  if (::access("/dev/kvm", R_OK | W_OK) != 0) GTEST_SKIP() << "needs /dev/kvm";
  EXPECT_NE(line(1, run({"--api", dir_ + "/a.sock"})).find("broken.elf"), std::string::npos);
  EXPECT_FALSE(std::filesystem::exists(dir_ + "/a.sock"));
}

TEST_F(Cli, RefusesBadDisksNamesCpusAndConsoles) {
  EXPECT_EQ(line(2, run({"--disk", "/nowhere"})),
            "godwit: run: --disk: /nowhere: No such file or directory");
  EXPECT_EQ(line(2, run({"--cpus", "0"})),
            "godwit: run: --cpus: \"0\" is not a number from 1 to 16");
  EXPECT_EQ(line(2, run({"--console", "tv"})),
            "godwit: run: --console: must be stdio, none or file:PATH");
  EXPECT_EQ(line(2, run({"--hvc", "tv"})), "godwit: run: --hvc: must be stdio, none or file:PATH");
  EXPECT_EQ(line(2, run({"--hvc", "stdio"})),
            "godwit: run: --hvc: the serial console has stdio: add --console none");
  EXPECT_EQ(line(2, {"run", "--name", "../x", "--kernel", dir_ + "/broken.elf"})
                .rfind("godwit: run: --name: ", 0),
            0u);
}

TEST_F(Cli, RefusesANameThatIsInUse) {
  if (::access("/dev/kvm", R_OK | W_OK) != 0) GTEST_SKIP() << "needs /dev/kvm";
  const std::string path = dir_ + "/web1.sock";
  const sys::UniqueFd live(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  ASSERT_EQ(::bind(live.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  ASSERT_EQ(::listen(live.get(), 1), 0);
  EXPECT_EQ(line(1, run({"--api", path})),
            "godwit: run: a guest named web1 is already running (" + path + ")");
}

TEST_F(Cli, SaysWhichGuestDoesNotExist) {
  const std::string path = dir_ + "/nobody.sock";
  for (const std::vector<std::string>& words : {std::vector<std::string>{"status", path},
                                                {"pause", path},
                                                {"resume", path},
                                                {"stop", path},
                                                {"cancel", path},
                                                {"resolve", path, "--here"},
                                                {"migrate", path, "--to", "localhost:1"}}) {
    EXPECT_EQ(line(1, words),
              "godwit: " + words.front() + ": no guest " + path + ": there is no " + path);
  }
}

TEST_F(Cli, RefusesArgumentsThatMakeNoSense) {
  EXPECT_EQ(line(2, {"status"}),
            "godwit: status: NAME is missing: godwit status NAME [--node SOCKET] [--json]");
  EXPECT_EQ(line(2, {"status", "a", "b"}), "godwit: status: too many arguments");
  EXPECT_EQ(line(2, {"list", "--all"}), "godwit: list: unknown option --all");
  EXPECT_EQ(line(2, {"resolve", "web1"}), "godwit: resolve: say either --here or --there");
  EXPECT_EQ(line(2, {"migrate", "web1"}), "godwit: migrate: --to: is missing");
  EXPECT_EQ(line(2, {"migrate", "web1", "--to", "host:b"}),
            "godwit: migrate: --to: the port \"b\" is not a number from 0 to 65535");
  EXPECT_EQ(line(2, {"migrate", "web1", "--to", "b:1", "--transport", "smoke"}),
            "godwit: migrate: --transport: must be auto, rdma or tcp");
  EXPECT_EQ(line(2, {"migrate", "web1", "--to", "b:1", "--timeout", "60"}),
            "godwit: migrate: --timeout: 60 lacks a unit, such as 50ms or 60s");
  EXPECT_EQ(line(2, {"migrate", "web1", "--to", "b:1", "--max-bandwidth", "fast"}),
            "godwit: migrate: --max-bandwidth: \"fast\" is not a rate, such as 1Gbit or 800Mbit");
}

TEST_F(Cli, KeepsToOneLineWhateverItQuotes) {
  line(2, {"fly\nagain"});
  line(2, run({"--kernel", "/no\nwhere"}));
  line(1, {"status", "/no\nwhere"});
}

TEST_F(Cli, GroupsTheOptionsOfRunByTheme) {
  const Result help = godwit({"run", "--help"});
  EXPECT_EQ(help.code, 0);
  std::size_t at = 0;
  for (const char* mark :
       {"Guest:", "--name", "Boot:", "--kernel", "Memory and CPU:", "--cpu ", "Devices:", "--disk",
        "Console and control:", "--api", "Other:", "--config", "Exit codes:"}) {
    const std::size_t found = help.out.find(mark, at);
    ASSERT_NE(found, std::string::npos) << mark << " is not there, or too early, in\n" << help.out;
    at = found;
  }
}

/// What bash offers after "godwit WORDS...", the last of them being typed.
std::string completion(const std::string& words) {
  const std::string script = "source " GODWIT_COMPLETION
                             " && _godwit_guests() { echo web1; } && COMP_WORDS=(godwit " +
                             words +
                             ") && COMP_CWORD=$((${#COMP_WORDS[@]} - 1)) && _godwit " GODWIT_BINARY
                             " 2>/dev/null; echo \"${COMPREPLY[*]}\"";
  std::FILE* bash = ::popen(("bash -c '" + script + "'").c_str(), "r");
  std::string out;
  for (int c = std::fgetc(bash); c != EOF; c = std::fgetc(bash)) out += static_cast<char>(c);
  EXPECT_EQ(::pclose(bash), 0);
  return out;
}

TEST_F(Cli, BashCompletesCommandsOptionsAndValues) {
  EXPECT_EQ(completion("mig"), "migrate\n");
  EXPECT_NE(completion("\"\"").find("run receive migrate"), std::string::npos);
  EXPECT_EQ(completion("migrate web1 --transport \"\""), "auto rdma tcp\n");
  EXPECT_EQ(completion("migrate web1 --trans"), "--transport\n");
  EXPECT_EQ(completion("run --cpu x86-64-v3"), "x86-64-v3\n");
  EXPECT_EQ(completion("run --mem"), "--memory\n");
  EXPECT_EQ(completion("run --kernel " + dir_ + "/broken"), dir_ + "/broken.elf\n");
  EXPECT_EQ(completion("run --name \"\""), "\n");
  for (const char* command : {"migrate", "cancel", "snapshot", "status", "pause", "resume",
                              "balloon", "stop", "upgrade", "resolve"}) {
    EXPECT_EQ(completion(std::string(command) + " we"), "web1\n") << command;
  }
  EXPECT_EQ(completion("mode a"), "advise automatic\n");
}

}  // namespace
}  // namespace godwit::node
