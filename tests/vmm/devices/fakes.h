// What a device is given in its tests instead of KVM: lines and vectors that count, doorbells that
// are written down; and register access by value.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <system_error>
#include <vector>

#include "vmm/devices/access.h"
#include "vmm/devices/device.h"
#include "vmm/devices/interrupt.h"

namespace godwit::devices {

class CountingLine final : public InterruptLine {
 public:
  void trigger() override { ++count; }
  std::atomic<int> count = 0;
};

/// Remembers what every vector was routed to and how often it fired.
class FakeVectors final : public MsiVectorFactory {
 public:
  struct Record {
    std::mutex mutex;
    std::vector<MsiMessage> routes;
    std::atomic<int> fired = 0;
  };

  std::unique_ptr<MsiVector> create() override {
    records.push_back(std::make_unique<Record>());
    return std::make_unique<Vector>(*this, *records.back());
  }

  int fired(unsigned vector) const { return records.at(vector)->fired; }

  std::vector<std::unique_ptr<Record>> records;
  bool out_of_routes = false;
  bool refuses_messages = false;

 private:
  struct Vector final : MsiVector {
    Vector(FakeVectors& from, Record& to) : owner(from), record(to) {}
    void route(const MsiMessage& message) override {
      if (owner.out_of_routes) throw std::system_error(ENOSPC, std::generic_category(), "route");
      const std::lock_guard lock(record.mutex);
      record.routes.push_back(message);
    }
    void trigger() override {
      if (owner.refuses_messages) throw std::system_error(EINVAL, std::generic_category(), "send");
      ++record.fired;
    }
    FakeVectors& owner;
    Record& record;
  };
};

class FakeDoorbells final : public DoorbellRegistry {
 public:
  void add(std::uint64_t address, int event_fd) override { registered[address] = event_fd; }
  void remove(std::uint64_t address, int event_fd) override {
    const auto found = registered.find(address);
    if (found == registered.end() || found->second != event_fd) ++wrong_removals;
    if (found != registered.end()) registered.erase(found);
  }
  std::map<std::uint64_t, int> registered;
  int wrong_removals = 0;
};

template <typename T>
T read_as(Device& device, std::uint64_t offset) {
  T value{};
  device.read(offset, std::as_writable_bytes(std::span(&value, 1)));
  return value;
}

template <typename T>
void write_as(Device& device, std::uint64_t offset, T value) {
  device.write(offset, std::as_bytes(std::span(&value, 1)));
}

inline std::vector<std::byte> save_of(const Device& device, std::uint32_t instance = 0) {
  vmm::StateWriter writer;
  device.save(writer, instance);
  return writer.finish();
}

inline void restore_from(Device& device, std::span<const std::byte> state,
                         std::uint32_t instance = 0) {
  vmm::StateReader reader(state);
  device.restore(reader, instance);
  reader.finish();
}

}  // namespace godwit::devices
