// What one node knows when it decides: itself in detail, and the few peers it asked. Plain numbers;
// filled by the live node from measurements and by the simulator from traces. CPU is in any unit of
// capacity, the same for hosts and guests (millicores, MIPS).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace godwit::balancer {

using HostId = std::uint64_t;
using GuestId = std::uint64_t;

// Expected demand over the coming horizon and how far single samples stray from it.
struct Forecast {
  double mean = 0;
  double variance = 0;
};

struct GuestView {
  GuestId id = 0;
  double demand = 0;  // CPU asked for in the last sample
  Forecast forecast;
  double most = 0;          // CPU it can ever use: its vCPUs
  double memory = 0;        // MB in use: what a move has to copy
  double given = 0;         // MB it may come to use, if more: what a target must have room for
  double dirty_rate = 0;    // MB/s
  double sensitivity = 1;   // weight of its lost work; 0 is idle batch, 10 is a database
  std::uint64_t needs = 0;  // capability bits a host must have
  std::uint32_t keep_apart =
      0;  // anti-affinity group, 0 for none: at most one of a group on a host
  std::uint32_t keep_together = 0;  // affinity group, 0 for none: never moved away from its group
  bool pinned = false;
  bool moving = false;
  double last_move = -1e18;        // seconds, same clock as ClusterView::now
  std::uint32_t recent_moves = 0;  // decays, see damping.h
  HostId left = ~HostId{0};        // the host it came from last
};

// SPECpower-like: watts at 0, 10 ... 100 % load.
struct PowerCurve {
  std::array<double, 11> watts{};
  double at(double load) const;
};

struct HostView {
  HostId id = 0;
  double capacity = 0;     // CPU
  double core = 0;         // CPU one guest thread can use; 0: no limit
  double memory = 0;       // MB for guests; 0: not limited
  double memory_used = 0;  // MB, reservations included
  double link = 0;         // MB/s a move can use
  double path = 0;         // MB/s that moves from here to it were seen to copy; 0: none was
  double setup = 0;        // seconds of such a move in which nothing is copied
  double demand = 0;       // last sample, sum over guests and arrivals in flight
  Forecast forecast;       // sum over guests and arrivals in flight, departures taken off
  std::size_t guests = 0;
  std::uint64_t has = ~std::uint64_t{0};  // capability bits
  std::vector<std::uint32_t> groups;      // anti-affinity groups present
  PowerCurve power;
  int incoming = 0;  // moves in flight
  int outgoing = 0;
  bool alive = true;
  bool awake = true;
  bool closed = false;            // draining or in maintenance: never a target
  double last_arrival = -1e18;    // seconds
  std::vector<GuestView> offers;  // guests it would give in a swap; few
};

struct ClusterView {
  double now = 0;  // seconds, monotonic
  HostView self;
  bool drain = false;             // this host must become empty
  double rise = 0;                // CPU a second by which this host's forecast grows
  double boot = 0;                // seconds until a host that is woken takes guests; 0: at once
  bool hot = false;               // detection.h: persistent and forecast overload
  std::vector<GuestView> guests;  // on this host
  std::vector<HostView> peers;    // asked just now: awake ones, and a few that could be woken
};

}  // namespace godwit::balancer
