// simulate: a day of traces through the balancer, or through a reference policy, and what came of
// it.
#include <fmt/format.h>

#include <chrono>
#include <fstream>
#include <memory>

#include "balancer/simulator/greedy.h"
#include "balancer/simulator/node_policy.h"
#include "balancer/simulator/reference.h"
#include "balancer/simulator/report.h"
#include "node/commands.h"
#include "node/exit_codes.h"
#include "node/options.h"

namespace godwit::node {

namespace sim = balancer::simulator;

namespace {

// Idle: does nothing, to see what the loads do alone.
class Nothing : public sim::Policy {
 public:
  std::vector<sim::Move> plan(const sim::World&) override { return {}; }
};

struct Setup {
  std::vector<sim::Trace> traces;
  std::string trace_name;
  sim::WorldConfig world;
  std::uint64_t seed = 0;
  std::string decisions_file;
};

void write_file(const std::string& path, const std::string& text) {
  std::ofstream file(path, std::ios::binary);
  file << text;
  file.close();
  if (!file) throw std::runtime_error("cannot write " + path);
}

std::unique_ptr<sim::Policy> make_policy(const std::string& name, const Setup& setup,
                                         std::ofstream& decisions) {
  if (name == "greedy") return std::make_unique<sim::GreedyPolicy>();
  if (name == "none") return std::make_unique<Nothing>();
  if (name.find("-mmt-") != std::string::npos) {
    return std::make_unique<sim::ReferencePolicy>(sim::parse_reference(name));
  }
  balancer::PolicyConfig config;
  if (name == "balance") {
    config = balancer::default_policy(balancer::Goal::kBalance);
  } else if (name == "consolidate") {
    config = balancer::default_policy(balancer::Goal::kConsolidate);
  } else {
    config = balancer::read_policy(name);
  }
  auto policy = std::make_unique<sim::NodePolicy>(config, setup.seed);
  if (decisions.is_open()) {
    policy->observe_decisions([&decisions](double time, const balancer::Decision& decision) {
      decisions << fmt::format("{:.0f} {}\n", time, balancer::explain(decision));
    });
  }
  return policy;
}

sim::Result simulate(const std::string& name, const Setup& setup) {
  std::ofstream decisions;
  if (!setup.decisions_file.empty()) {
    decisions.open(setup.decisions_file, std::ios::binary);
    if (!decisions) throw std::runtime_error("cannot write " + setup.decisions_file);
  }
  const auto policy = make_policy(name, setup, decisions);
  const auto began = std::chrono::steady_clock::now();
  sim::World world(setup.traces, setup.world);
  sim::Result result;
  result.metrics = world.run(*policy);
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - began;
  result.policy = name;
  result.trace = setup.trace_name;
  result.hosts = world.hosts().size();
  result.guests = world.guests().size();
  result.seed = setup.seed;
  result.idle_removed = setup.world.remove_idle_guests;
  result.wall_seconds = took.count();
  if (decisions.is_open()) {
    decisions.close();
    if (!decisions) throw std::runtime_error("cannot write " + setup.decisions_file);
  }
  return result;
}

Options simulate_options() {
  Options options(
      "simulate --trace DIR [--policy POLICY]... [OPTION...]",
      "Runs a day of CPU traces through the balancer and prints what it cost and how well it "
      "served.",
      "POLICY is a policy file (JSON), `balance` or `consolidate` for their defaults, or a "
      "baseline:\n"
      "`lr-mmt-1.2`, `thr-mmt-0.8`, `mad-mmt-2.5`, `iqr-mmt-1.5`, `greedy`, `none`. Several are "
      "run one\n"
      "after another on the same day. DIR is one day in PlanetLab's format: a file a guest, a\n"
      "percentage a line, 288 lines. docs/balancing.md explains the figures.\n"
      "Exit codes: 0 done, 1 failed (one line says why), 2 wrong usage.");
  options.value("trace", "DIR", "directory of the day's traces")
      .values("policy", "POLICY", "what decides; may be repeated (default consolidate)")
      .value("hosts", "N", "hosts, half of each model", "800")
      .value("guests", "N", "guests; above the number of traces these are repeated, shifted", "0")
      .value("seed", "N", "order of the traces and the nodes' chance; 0 is sorted", "0")
      .flag("keep-idle", "keep guests that ask for nothing (CloudSim 3.0.3 removes them)")
      .flag("memory", "hosts' RAM binds (in CloudSim 3.0.3 it does not after creation)")
      .flag("no-bound", "do not compute the bound of the load deviation: time in large clusters")
      .flag("spread", "start with the guests spread evenly, not by CloudSim's placement")
      .value("csv", "FILE", "write one line a policy")
      .value("series", "FILE", "write the last policy's day, sample by sample, as CSV")
      .value("svg", "FILE", "write a plot of the day")
      .value("decisions", "FILE", "write every decision and refusal of the last policy in words");
  return options;
}

}  // namespace

int simulate_command(const Words& words) {
  Options options = simulate_options();
  if (!options.parse(words)) return kExitOk;
  if (!options.has("trace")) throw UsageError("--trace: lacking; give the directory of one day");
  Setup setup;
  setup.traces = sim::read_traces(options.text("trace"));
  setup.trace_name =
      std::filesystem::path(options.text("trace")).lexically_normal().filename().string();
  setup.seed = setup.world.seed = options.count("seed", 0, 1ull << 62);
  setup.world.hosts = options.count("hosts", 1, 100'000);
  setup.world.guests = options.count("guests", 0, 2'000'000);
  setup.world.remove_idle_guests = !options.on("keep-idle");
  setup.world.memory_binds = options.on("memory");
  setup.world.spread_start = options.on("spread");
  setup.world.bounds = !options.on("no-bound");
  std::vector<std::string> names = options.all("policy");
  if (names.empty()) names.emplace_back("consolidate");
  // All of them before the first is run, which may take minutes.
  std::ofstream none;
  for (const std::string& name : names) make_policy(name, setup, none);
  std::vector<sim::Result> results;
  std::string csv = sim::csv_header();
  for (const std::string& name : names) {
    if (options.has("decisions") && &name == &names.back()) {
      setup.decisions_file = options.text("decisions");
    }
    results.push_back(simulate(name, setup));
    fmt::print("{}", sim::to_text(results.back()));
    csv += sim::to_csv(results.back());
  }
  if (options.has("csv")) write_file(options.text("csv"), csv);
  if (options.has("series")) write_file(options.text("series"), sim::series_csv(results.back()));
  if (options.has("svg")) write_file(options.text("svg"), sim::to_svg(results));
  return kExitOk;
}

}  // namespace godwit::node
