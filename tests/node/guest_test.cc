#include "node/guest.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <future>

#include "tests/node/described.h"
#include "tests/node/fake_machine.h"

namespace godwit::node {
namespace {

using nlohmann::json;
using EndKind = vmm::End::Kind;
using Calls = std::vector<std::string>;

class GuestTest : public testing::Test {
 protected:
  GuestTest() {
    reset_world();
    config_.name = "web1";
    config_.memory_bytes = 256u << 20;
    guest_ = std::make_unique<Guest>(config_, output_);
  }

  void start() {
    guest_->start();
    outcome_ = std::async(std::launch::async, [this] { return guest_->wait(); });
  }
  Outcome outcome() {
    if (outcome_.wait_for(std::chrono::seconds(5)) != std::future_status::ready) {
      ADD_FAILURE() << "the guest did not end";
      std::abort();
    }
    return outcome_.get();
  }
  std::string state() { return guest_->status()["state"]; }
  void migrate() {
    guest_->migrate({.to = "b:7000"}, [this](const json& report) {
      state_when_reported_ = state();
      report_.set_value(report);
    });
    ASSERT_TRUE(world().wait_for("move"));
  }
  bool move_reported() {
    return report_.get_future().wait_for(std::chrono::seconds(5)) == std::future_status::ready;
  }

  vmm::MachineConfig config_;
  Consoles output_{ConsoleConfigs{{ConsoleConfig::Kind::kNone, ""}}};
  std::unique_ptr<Guest> guest_;
  std::future<Outcome> outcome_;
  std::promise<json> report_;
  std::string state_when_reported_;
};

TEST_F(GuestTest, BootsAndPowersOff) {
  EXPECT_EQ(state(), "booting");
  start();
  EXPECT_EQ(world().calls(), (Calls{"build", "lock", "boot", "resume"}));
  EXPECT_EQ(state(), "running");
  world().guest_does({EndKind::kPowerOff, ""});
  EXPECT_EQ(outcome().kind, Outcome::Kind::kPowerOff);
}

TEST_F(GuestTest, RebootsInANewMachineAfterTheOldOneHasGone) {
  start();
  world().guest_does({EndKind::kReset, ""});
  while (world().machines != 1 || world().calls().size() < 8) std::this_thread::yield();
  EXPECT_EQ(world().calls(),
            (Calls{"build", "lock", "boot", "resume", "build", "lock", "boot", "resume"}));
  EXPECT_EQ(guest_->status()["cpu_ms"], 10.0);
  world().guest_does({EndKind::kPowerOff, ""});
  EXPECT_EQ(outcome().kind, Outcome::Kind::kPowerOff);
}

TEST_F(GuestTest, TellsItsLoadInEveryState) {
  json load = guest_->load();
  EXPECT_EQ(load["state"], "booting");
  EXPECT_EQ(load["cpu_run_ns"], 0);
  EXPECT_EQ(load["memory_used_bytes"], 0);
  start();
  load = guest_->load();
  EXPECT_EQ(load, (json{{"state", "running"},
                        {"cpus", 1},
                        {"cpu_run_ns", 5'000'000},
                        {"cpu_wait_ns", 2'000'000},
                        {"memory_bytes", 256 << 20},
                        {"memory_used_bytes", 8192},
                        {"dirty_bytes_per_s", 0.0},
                        {"disk_read_bytes", 4096},
                        {"disk_write_bytes", 512},
                        {"net_receive_bytes", 0},
                        {"net_send_bytes", 0}}));
  guest_->pause();
  EXPECT_EQ(guest_->load()["state"], "paused");
  guest_->resume();
  migrate();
  EXPECT_EQ(guest_->load()["state"], "migrating");
  EXPECT_EQ(guest_->load()["cpu_run_ns"], 5'000'000);
  guest_->stop(true);
  outcome();
  EXPECT_EQ(guest_->load()["state"], "over");
  EXPECT_EQ(guest_->load()["cpu_run_ns"], 5'000'000);

  Guest coming(config_, output_, Guest::Arriving{});
  EXPECT_EQ(coming.load()["state"], "arriving");
  EXPECT_EQ(coming.load()["cpu_run_ns"], 0);
}

TEST_F(GuestTest, GivesMemoryOnlyThroughABalloon) {
  EXPECT_EQ(guest_->status()["balloon"], json());
  EXPECT_THROW(guest_->balloon(4096), Conflict);
  config_.balloon = true;
  guest_ = std::make_unique<Guest>(config_, output_);
  EXPECT_THROW(guest_->balloon(4096), Conflict) << "it is booting";
  start();
  guest_->balloon(4096);
  EXPECT_THROW(guest_->balloon(257u << 20), BadRequest);
  EXPECT_EQ(guest_->status()["balloon"], (json{{"target_bytes", 4096},
                                               {"actual_bytes", 4096},
                                               {"reported_bytes", 8192},
                                               {"statistics", {{"free_bytes", 77}}}}));
  world().guest_does({EndKind::kPowerOff, ""});
  outcome();
}

TEST_F(GuestTest, CountsItsLoadOnAcrossReboots) {
  start();
  json rebooting;
  world().while_booting = [&] { rebooting = guest_->load(); };
  world().guest_does({EndKind::kReset, ""});
  while (world().machines != 1 || world().calls().size() < 8) std::this_thread::yield();
  EXPECT_EQ(rebooting["state"], "booting");
  EXPECT_EQ(rebooting["cpu_run_ns"], 5'000'000);
  EXPECT_EQ(rebooting["memory_used_bytes"], 0);
  const json load = guest_->load();
  EXPECT_EQ(load["cpu_run_ns"], 10'000'000);
  EXPECT_EQ(load["cpu_wait_ns"], 4'000'000);
  EXPECT_EQ(load["disk_read_bytes"], 8192);
  EXPECT_EQ(load["disk_write_bytes"], 1024);
  world().guest_does({EndKind::kPowerOff, ""});
  outcome();
}

TEST_F(GuestTest, SaysWhyItCouldNotReboot) {
  start();
  world().boot_error = "the kernel has gone";
  world().guest_does({EndKind::kReset, ""});
  const Outcome end = outcome();
  EXPECT_EQ(end.kind, Outcome::Kind::kFailed);
  EXPECT_EQ(end.text, "cannot reboot: the kernel has gone");
}

TEST_F(GuestTest, ReportsTheFailureOfItsMachine) {
  start();
  world().guest_does({EndKind::kFailed, "KVM internal error"});
  const Outcome end = outcome();
  EXPECT_EQ(end.kind, Outcome::Kind::kFailed);
  EXPECT_EQ(end.text, "KVM internal error");
}

TEST_F(GuestTest, PausesAndResumesOnce) {
  start();
  guest_->pause();
  guest_->pause();
  EXPECT_EQ(state(), "paused");
  EXPECT_THROW(guest_->stop(false), Conflict);
  EXPECT_THROW(migrate(), Conflict);
  guest_->resume();
  guest_->resume();
  EXPECT_EQ(world().calls(), (Calls{"build", "lock", "boot", "resume", "pause", "resume"}));
  guest_->stop(false);
  EXPECT_EQ(world().calls().back(), "button");
  guest_->stop(true);
  EXPECT_EQ(outcome().kind, Outcome::Kind::kStopped);
}

TEST_F(GuestTest, EndsOnASignalThatCameBeforeItRan) {
  guest_->end({Outcome::Kind::kSignal, 15, "Terminated"});
  start();
  EXPECT_EQ(outcome().signal, 15);
  EXPECT_EQ(world().calls(), (Calls{"build", "lock", "boot"}));
}

TEST_F(GuestTest, EndsWhenItHasMoved) {
  start();
  migrate();
  EXPECT_EQ(state(), "migrating");
  world().move_ends(Move::End::kMoved);
  EXPECT_TRUE(move_reported());
  EXPECT_EQ(state_when_reported_, "over") << "it could be resumed here";
  const Outcome end = outcome();
  EXPECT_EQ(end.kind, Outcome::Kind::kMoved);
  EXPECT_EQ(end.text, "web1 moved to b:7000");
  EXPECT_THROW(guest_->resume(), Conflict);
}

TEST_F(GuestTest, RefusesOtherCommandsDuringAMove) {
  start();
  migrate();
  EXPECT_THROW(guest_->pause(), Conflict);
  EXPECT_THROW(guest_->resume(), Conflict);
  EXPECT_THROW(guest_->stop(false), Conflict);
  EXPECT_THROW(guest_->resolve(true), Conflict);
  EXPECT_THROW(guest_->migrate({.to = "c:7000"}, [](const json&) {}), Conflict);
  EXPECT_EQ(guest_->migration()["active"]["phase"], "rounds");
  guest_->cancel_migration();
  EXPECT_TRUE(move_reported());
  EXPECT_EQ(state(), "running");
  EXPECT_THROW(guest_->cancel_migration(), Conflict);
  EXPECT_EQ(guest_->migration()["last_report"]["status"], "whatever");
  guest_->stop(true);
  outcome();
}

TEST_F(GuestTest, CanMoveAgainAfterAMoveThatFailed) {
  start();
  for (int i = 0; i < 3; ++i) {
    report_ = {};
    migrate();
    world().move_ends(Move::End::kHere);
    EXPECT_TRUE(move_reported());
    world().forget_move();
  }
  EXPECT_EQ(state(), "running");
  guest_->stop(true);
  outcome();
}

TEST_F(GuestTest, CancelsItsMoveWhenItPowersOff) {
  start();
  migrate();
  world().guest_does({EndKind::kPowerOff, ""});
  EXPECT_TRUE(move_reported());
  EXPECT_EQ(outcome().kind, Outcome::Kind::kPowerOff);
  EXPECT_TRUE(world().move_cancelled);
}

TEST_F(GuestTest, CancelsItsMoveWhenASignalEndsIt) {
  start();
  migrate();
  guest_->end({Outcome::Kind::kSignal, 15, "Terminated"});
  EXPECT_TRUE(move_reported());
  EXPECT_EQ(outcome().kind, Outcome::Kind::kSignal);
}

TEST_F(GuestTest, StaysStoppedInDoubtUntilResolvedHere) {
  start();
  migrate();
  world().move_ends(Move::End::kInDoubt);
  EXPECT_TRUE(move_reported());
  EXPECT_EQ(state(), "in-doubt");
  EXPECT_THROW(guest_->resume(), Conflict);
  EXPECT_EQ(world().calls().back(), "move");
  world().take_back_error = "its disk is in use";
  EXPECT_THROW(guest_->resolve(true), std::runtime_error);
  EXPECT_EQ(state(), "in-doubt");
  world().take_back_error.clear();
  guest_->resolve(true);
  EXPECT_EQ(state(), "running");
  EXPECT_EQ(world().calls().back(), "resume");
  guest_->stop(true);
  outcome();
}

TEST_F(GuestTest, InDoubtItAsksUntilTheDestinationKnows) {
  world().may_ask = true;
  world().will_hear(Move::Word::kNone);
  world().will_hear(Move::Word::kNone);
  world().will_hear(Move::Word::kRuns);
  start();
  migrate();
  world().move_ends(Move::End::kInDoubt);
  EXPECT_TRUE(move_reported());
  EXPECT_EQ(state_when_reported_, "over") << "it was reported before it was known";
  EXPECT_EQ(outcome().text, "web1 moved to b:7000");
  const Calls calls = world().calls();
  EXPECT_EQ(std::count(calls.begin(), calls.end(), "ask"), 3);
  EXPECT_EQ(calls.back(),
            "settle there: the answer to the commit was lost; it runs there nevertheless");
}

TEST_F(GuestTest, ADestinationThatNeverRanItGivesItBack) {
  world().may_ask = true;
  world().will_hear(Move::Word::kNever);
  start();
  migrate();
  world().move_ends(Move::End::kInDoubt);
  EXPECT_TRUE(move_reported());
  EXPECT_EQ(state(), "running");
  EXPECT_TRUE(world().wait_for("take back"));
  guest_->stop(true);
  outcome();
}

TEST_F(GuestTest, AGuestGivenBackWhoseDisksAreTakenStaysPaused) {
  world().may_ask = true;
  world().will_hear(Move::Word::kNever);
  world().take_back_error = "its disk is in use";
  world().stops_it = true;
  start();
  migrate();
  world().move_ends(Move::End::kInDoubt);
  EXPECT_TRUE(move_reported());
  EXPECT_EQ(state(), "paused");
  world().take_back_error.clear();
  guest_->resume();
  EXPECT_EQ(state(), "running");
  guest_->stop(true);
  outcome();
}

TEST_F(GuestTest, InDoubtAPersonIsFasterAndIsObeyed) {
  for (const bool here : {true, false}) {
    reset_world();
    world().may_ask = true;
    guest_ = std::make_unique<Guest>(config_, output_);
    report_ = {};
    start();
    migrate();
    world().move_ends(Move::End::kInDoubt);
    ASSERT_TRUE(world().wait_for("ask"));
    while (state() != "in-doubt") std::this_thread::yield();
    guest_->resolve(here);
    world().will_hear(here ? Move::Word::kRuns : Move::Word::kNever);  // too late
    EXPECT_TRUE(move_reported());
    EXPECT_TRUE(world().wait_for("stop asking"));
    if (here) {
      EXPECT_EQ(state(), "running");
      EXPECT_THROW(guest_->resolve(true), Conflict);
      std::this_thread::sleep_for(std::chrono::milliseconds(300));
      EXPECT_EQ(state(), "running");
      guest_->stop(true);
    }
    EXPECT_EQ(outcome().kind, here ? Outcome::Kind::kStopped : Outcome::Kind::kMoved);
    guest_.reset();
  }
}

TEST_F(GuestTest, WhoWaitsInDoubtHearsOfItInTimeAndHowItEnds) {
  world().may_ask = true;
  start();
  migrate();
  world().move_ends(Move::End::kInDoubt);
  EXPECT_TRUE(move_reported()) << "after some time, though nothing is known";
  EXPECT_EQ(state_when_reported_, "in-doubt");
  std::promise<json> soon;
  std::promise<json> in_the_end;
  guest_->resume_migration({}, [&](const json& report) { soon.set_value(report); });
  EXPECT_EQ(soon.get_future().get()["guest_state"], "in-doubt");
  world().will_hear(Move::Word::kNever);
  guest_->resume_migration(std::chrono::minutes(1),
                           [&](const json& report) { in_the_end.set_value(report); });
  EXPECT_EQ(in_the_end.get_future().get()["guest_state"], "running");
  guest_->stop(true);
  outcome();
}

TEST_F(GuestTest, InDoubtItEndsWhenItIsStopped) {
  world().may_ask = true;
  start();
  migrate();
  world().move_ends(Move::End::kInDoubt);
  ASSERT_TRUE(world().wait_for("ask"));
  while (state() != "in-doubt") std::this_thread::yield();
  guest_->stop(true);
  EXPECT_EQ(outcome().kind, Outcome::Kind::kStopped);
  EXPECT_TRUE(move_reported());
}

TEST_F(GuestTest, AMoveThatIsPausedInPostCopyIsResumedAndNothingElse) {
  start();
  EXPECT_THROW(guest_->resume_migration({}, [](const json&) {}), Conflict);
  migrate();
  world().move_ends(Move::End::kPaused);
  EXPECT_TRUE(move_reported());
  EXPECT_EQ(state(), "postcopy-paused");
  EXPECT_THROW(guest_->resume(), Conflict);
  EXPECT_THROW(guest_->resolve(true), Conflict);
  EXPECT_THROW(guest_->cancel_migration(), Conflict);
  EXPECT_THROW(guest_->migrate({.to = "c:7000"}, [](const json&) {}), Conflict);
  report_ = {};
  guest_->resume_migration({}, [this](const json& report) { report_.set_value(report); });
  EXPECT_TRUE(move_reported());
  EXPECT_EQ(outcome().kind, Outcome::Kind::kMoved);
}

TEST_F(GuestTest, LocksItsDisksAgainBeforeItResumesFromAMoveThatStrandedIt) {
  start();
  world().strands = true;
  migrate();
  world().move_ends(Move::End::kHere);
  EXPECT_TRUE(move_reported());
  EXPECT_EQ(state(), "paused");
  world().take_back_error = "its disk is in use";
  EXPECT_THROW(guest_->resume(), std::runtime_error);
  EXPECT_EQ(state(), "paused");
  world().take_back_error.clear();
  guest_->resume();
  EXPECT_EQ(state(), "running");
  guest_->stop(true);
  outcome();
}

TEST_F(GuestTest, EndsInDoubtWhenResolvedThere) {
  start();
  migrate();
  world().move_ends(Move::End::kInDoubt);
  EXPECT_TRUE(move_reported());
  guest_->resolve(false);
  EXPECT_EQ(outcome().kind, Outcome::Kind::kMoved);
  EXPECT_NE(world().calls().back(), "resume");
}

TEST_F(GuestTest, RunsOnAfterItsSnapshotWhetherThatWorkedOrNot) {
  start();
  for (const bool well : {true, false}) {
    report_ = {};
    world().snapshot_end.reset();
    guest_->snapshot({"/srv/s1"}, [this](const json& report) { report_.set_value(report); });
    EXPECT_EQ(state(), "snapshotting");
    EXPECT_THROW(guest_->pause(), Conflict);
    EXPECT_THROW(guest_->migrate({.to = "c:7000"}, [](const json&) {}), Conflict);
    EXPECT_THROW(guest_->snapshot({"/srv/s2"}, [](const json&) {}), Conflict);
    world().snapshot_ends(well);
    EXPECT_TRUE(move_reported());
    EXPECT_EQ(state(), "running");
  }
  guest_->stop(true);
  outcome();
}

TEST_F(GuestTest, EndsAfterASnapshotThatShallStopItAndOnlyIfItIsComplete) {
  start();
  guest_->snapshot({"/srv/s1", true}, [this](const json& report) { report_.set_value(report); });
  world().snapshot_ends(false);
  EXPECT_TRUE(move_reported());
  EXPECT_EQ(state(), "running");
  report_ = {};
  world().snapshot_end.reset();  // nobody waits for it now
  guest_->snapshot({"/srv/s1", true}, [this](const json& report) { report_.set_value(report); });
  world().snapshot_ends(true);
  EXPECT_TRUE(move_reported());
  EXPECT_EQ(outcome().text, "stopped; its snapshot is /srv/s1");
}

TEST_F(GuestTest, AnswersWhatTheDescriptionOfTheApiSaysAndNothingElse) {
  config_.disks = {{"/srv/web1.img", false, true, "root"}};
  config_.nets = {{"tap-web1", "02:00:00:00:00:01", 9000, "br0"}};
  config_.vsock = {7, "/run/web1.vsock"};
  config_.balloon = true;
  guest_ = std::make_unique<Guest>(config_, output_);
  std::ifstream file(GODWIT_DOCS "/openapi.json");
  const json schemas = json::parse(file)["components"]["schemas"];
  start();
  expect_described(schemas, schemas["Status"], guest_->status(), "status");
  expect_described(schemas, schemas["Load"], guest_->load(), "load");
  guest_->stop(true);
  outcome();
}

TEST_F(GuestTest, TellsThatItsKernelHasPanicked) {
  start();
  EXPECT_EQ(guest_->status()["panicked"], false);
  world().panicked = true;
  EXPECT_EQ(guest_->status()["panicked"], true);
  world().guest_does({EndKind::kPowerOff, ""});
  EXPECT_TRUE(outcome().panicked);
}

TEST_F(GuestTest, CancelsItsSnapshotWhenItPowersOff) {
  start();
  guest_->snapshot({"/srv/s1"}, [this](const json& report) { report_.set_value(report); });
  ASSERT_TRUE(world().wait_for("snapshot"));
  world().guest_does({EndKind::kPowerOff, ""});
  EXPECT_TRUE(move_reported());
  EXPECT_EQ(outcome().kind, Outcome::Kind::kPowerOff);
  EXPECT_TRUE(world().move_cancelled);
}

TEST_F(GuestTest, LeavesARefusedMoveWithoutATrace) {
  start();
  EXPECT_THROW(guest_->migrate({.to = "nonsense"}, [](const json&) {}), BadRequest);
  EXPECT_EQ(state(), "running");
  guest_->stop(true);
  outcome();
}

}  // namespace
}  // namespace godwit::node
