// SPDX-License-Identifier: Apache-2.0
// When each computing thread lost its processor and got one back, as the kernel itself notes it: PERF_RECORD_SWITCH,
// written at each context switch into a ring that is mapped here. The measured threads do nothing for it, and the ring
// is emptied once per graph, without a system call. docs/counters.md.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace melt {

/// A thread was not running from begin to end, in ticks of melt_ticks().
struct OffCpu {
  std::uint64_t begin_ticks;
  std::uint64_t end_ticks;
  std::uint32_t cpu_before;
  std::uint32_t cpu_after;
  bool preempted;  ///< it wanted to go on; else it waited for something
};

class SwitchWatch {
 public:
  static constexpr const char* kSource = "PERF_RECORD_SWITCH";

  explicit SwitchWatch(unsigned n_threads);
  ~SwitchWatch();
  SwitchWatch(const SwitchWatch&) = delete;
  SwitchWatch& operator=(const SwitchWatch&) = delete;

  /// Watches the calling thread as number `thread`, from the next start() on. Different threads may call it at the same
  /// time. False: not possible, see reason().
  bool open(unsigned thread) noexcept;
  /// Why one of the threads cannot be watched; empty if all are.
  std::string reason() const;
  void close() noexcept;
  bool is_open() const noexcept;

  /// Forgets what was noted. Makes room; never call in a run.
  void clear();
  void start() noexcept;
  void stop() noexcept;
  /// Takes what the kernel noted since the last call. Allocation-free, no system call; at most one caller at a time.
  void drain() noexcept;

  // After stop().
  /// By thread, in order of time. Intervals of which one end is not known are left out.
  std::vector<std::vector<OffCpu>> intervals() const;
  /// Notes that found no room, as far as the kernel has said: at least one where there was a gap.
  std::uint64_t n_lost() const noexcept { return n_lost_; }

 private:
  struct Note {
    std::int64_t raw_ns;  // CLOCK_MONOTONIC_RAW
    std::uint32_t cpu;
    std::uint16_t thread;
    std::uint16_t kind;
  };
  struct Ring {
    int file = -1;
    void* page = nullptr;
    int error = 0;
    const char* call = "";
    bool gap_noted = false;  // of which the kernel has yet to say how large it was
  };
  struct Anchor {
    std::uint64_t ticks = 0;
    std::int64_t raw_ns = 0;
  };
  static Anchor read_anchor() noexcept;
  std::uint64_t to_ticks(std::int64_t raw_ns) const noexcept;
  void take(std::uint16_t thread, const std::uint8_t* data, std::uint64_t size, std::uint64_t tail,
            std::uint64_t head) noexcept;
  void note_gap(std::uint16_t thread, std::uint64_t n_lost) noexcept;

  std::vector<Ring> rings_;
  std::vector<Note> notes_;
  std::uint64_t n_lost_ = 0;
  Anchor first_, last_;
};

}  // namespace melt
