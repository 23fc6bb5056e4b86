#include "node/daemon/tls.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <ctime>
#include <filesystem>
#include <fstream>

#include "node/daemon/tls_module.h"
#include "tests/node/daemon/certificates.h"

namespace godwit::node {
namespace {

class TlsContextTest : public testing::Test {
 protected:
  ~TlsContextTest() override { std::filesystem::remove_all(folder_); }

  static std::string make_folder() {
    std::string path = testing::TempDir() + "godwit_tls_XXXXXX";
    EXPECT_NE(::mkdtemp(path.data()), nullptr);
    return path + "/";
  }

  std::string file(const std::string& name, const std::string& text) const {
    std::ofstream(folder_ + name) << text;
    return folder_ + name;
  }

  /// What the constructor throws; "" when it does not.
  static std::string complaint(const TlsFiles& files) {
    try {
      const TlsContext context(files);
      return {};
    } catch (const std::runtime_error& error) {
      return error.what();
    }
  }

  const std::string folder_ = make_folder();
  TestCa ca_{folder_, "ca"};
  const TlsFiles good_ = ca_.make("a", {.name = "a"});
};

TEST_F(TlsContextTest, TakesGoodFiles) { EXPECT_EQ(complaint(good_), ""); }

TEST_F(TlsContextTest, KnowsItsNamesAndItsEnd) {
  const TlsContext context(
      ca_.make("b", {.name = "b", .also = "b.example", .valid_to_s = 864'000}));
  const OwnCertificate own = context.module().own_certificate();
  EXPECT_EQ(own.names, (std::vector<std::string>{"b", "b.example"}));
  EXPECT_NEAR(static_cast<double>(own.valid_until - std::time(nullptr)), 864'000, 60);
}

TEST_F(TlsContextTest, NamesAMissingFile) {
  const std::string nowhere = folder_ + "nowhere";
  EXPECT_EQ(complaint({nowhere, good_.certificate, good_.key}),
            "CA " + nowhere + ": No such file or directory");
  EXPECT_EQ(complaint({good_.ca, nowhere, good_.key}),
            "certificate " + nowhere + ": No such file or directory");
  EXPECT_EQ(complaint({good_.ca, good_.certificate, nowhere}),
            "key " + nowhere + ": No such file or directory");
  EXPECT_EQ(complaint({"", good_.certificate, good_.key}), "no CA file is named");
}

TEST_F(TlsContextTest, RefusesAFolderAndAnEmptyFile) {
  EXPECT_NE(complaint({folder_, good_.certificate, good_.key}).find("Is a directory"),
            std::string::npos);
  const std::string empty = file("empty", "");
  EXPECT_EQ(complaint({empty, good_.certificate, good_.key}),
            "CA " + empty + ": the file is empty");
}

TEST_F(TlsContextTest, RefusesWhatIsNoPem) {
  const std::string text = file("text", "hello\n");
  EXPECT_EQ(complaint({text, good_.certificate, good_.key}),
            "CA " + text + ": holds no certificate (PEM)");
  EXPECT_EQ(complaint({good_.ca, text, good_.key}).find("certificate " + text + ": is no cert"),
            0u);
  EXPECT_EQ(complaint({good_.ca, good_.certificate, text}).find("key " + text + ": is no priv"),
            0u);
  // The wrong way round.
  EXPECT_EQ(complaint({good_.key, good_.certificate, good_.key}),
            "CA " + good_.key + ": holds no certificate (PEM)");
}

TEST_F(TlsContextTest, RefusesAKeyOfAnotherCertificate) {
  const TlsFiles other = ca_.make("b", {.name = "b"});
  EXPECT_EQ(complaint({good_.ca, good_.certificate, other.key}),
            "key " + other.key + ": is not the key of " + good_.certificate);
}

}  // namespace
}  // namespace godwit::node
