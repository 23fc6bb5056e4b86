#include "vmm/sys/urgency.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

#include <initializer_list>
#include <thread>
#include <vector>

namespace godwit::sys {
namespace {

class Urgencies : public ::testing::Test {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "not root: a process may not raise its own priority";
  }
};

struct Standing {
  int policy, nice;
  bool operator==(const Standing&) const = default;
};

Standing standing_of(pid_t thread) {
  return {::sched_getscheduler(thread), ::getpriority(PRIO_PROCESS, static_cast<id_t>(thread))};
}

/// What each urgency, in turn, makes of a thread that is nice by 3.
std::vector<Standing> standings(std::initializer_list<Urgency> urgencies, int policy) {
  std::vector<Standing> found;
  // A thread of its own: what it is by then goes with it.
  std::thread([&] {
    const pid_t self = ::gettid();
    EXPECT_EQ(::setpriority(PRIO_PROCESS, static_cast<id_t>(self), 3), 0);
    const sched_param none{};
    EXPECT_EQ(::sched_setscheduler(self, policy, &none), 0);
    ThreadUrgency urgency;
    for (const Urgency one : urgencies) {
      urgency.set(self, one);
      found.push_back(standing_of(self));
    }
  }).join();
  return found;
}

TEST_F(Urgencies, GoesUpAndDownAndIsAsItWasInTheEnd) {
  EXPECT_EQ(standings({Urgency::kUsual, Urgency::kHigh, Urgency::kHighest, Urgency::kHigh,
                       Urgency::kUsual, Urgency::kHighest, Urgency::kUsual},
                      SCHED_OTHER),
            (std::vector<Standing>{{SCHED_OTHER, 3},
                                   {SCHED_OTHER, -10},
                                   {SCHED_RR, -10},
                                   {SCHED_OTHER, -10},
                                   {SCHED_OTHER, 3},
                                   {SCHED_RR, -10},
                                   {SCHED_OTHER, 3}}));
}

TEST_F(Urgencies, LeavesAloneWhoWasGivenAnotherPolicy) {
  EXPECT_EQ(standings({Urgency::kHigh, Urgency::kHighest, Urgency::kUsual}, SCHED_BATCH),
            (std::vector<Standing>(3, {SCHED_BATCH, 3})));
}

}  // namespace
}  // namespace godwit::sys
