// SPDX-License-Identifier: Apache-2.0
// What this machine can do at best: streaming read bandwidth and peak arithmetic rate, measured (docs/ceilings.md).
// The roofs of the roofline model (Williams, Waterman, Patterson, CACM 52(4), 2009).
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace melt {

enum class CeilingKind : std::uint8_t {
  kReadBandwidth = 1,  ///< bytes/s
  kFlops = 2,          ///< multiply + add = 2, for integers too
};

/// One measured ceiling. A round is some milliseconds of all threads together.
struct Ceiling {
  CeilingKind kind = CeilingKind::kReadBandwidth;
  std::string name;                     ///< "L2", "L3", "memory", or an instruction family such as "f32_avx2"
  std::uint64_t working_set_bytes = 0;  ///< of all threads together; 0 for arithmetic, which stays in registers
  std::uint32_t n_threads = 0;
  double best = 0.0;    ///< of the rounds, in bytes/s or flop/s
  double median = 0.0;  ///< the same
  std::uint32_t n_rounds = 0;
};

/// A ceiling that cannot be measured here.
struct AbsentCeiling {
  CeilingKind kind = CeilingKind::kReadBandwidth;
  std::string name;
  std::uint32_t n_threads = 0;  ///< 0: whatever their number
  std::string reason;
};

/// A set of bytes to be read, and why it has this size.
struct WorkingSet {
  std::string name;
  std::uint64_t bytes = 0;  ///< of all threads together; 0: absent, for the reason in `choice`
  std::string choice;
};

/// An instruction family and whether this CPU, this system and this build have it.
struct ArithmeticFamily {
  std::string name;
  std::string instructions;
  std::string absent_reason;  ///< empty: it is there
};

/// Equal if the kernel is right.
struct ArithmeticCheck {
  double multiply_adds = 0.0;
  double sum = 0.0;  ///< of all accumulators
};

struct CeilingOptions {
  std::vector<std::uint32_t> thread_counts;  ///< empty: default_thread_counts() of the usable CPUs
  bool pin_threads = true;                   ///< one CPU each, where the system allows it
  bool huge_pages = true;                    ///< ask for them: a ceiling is without page walks, where possible
  bool sequential_reads = false;             ///< as most tools read; else in several ways, and the fastest counts
  double measurement_s = 0.15;               ///< for the timed rounds of one measurement
  std::uint64_t max_memory_bytes = 0;        ///< for the largest working set; 0: memory_cap_bytes()
  const std::atomic<bool>* cancel = nullptr;
  /// What is measured now, and how much of all is done, 0 to 1. Called on the caller's thread between measurements.
  std::function<void(const std::string& label, double done)> on_progress;
};

struct CeilingResult {
  std::vector<Ceiling> ceilings;
  std::vector<AbsentCeiling> absent;
  std::vector<std::string> notes;  ///< how working sets were chosen, and what limits the figures
  std::string read_instructions;   ///< the widest that were tried; the notes say which were the fastest
  bool pinned = false;             ///< whether every thread of every measurement kept its own CPU
};

/// The CPUs this process may use, those that share no core with an earlier one first.
std::vector<int> usable_cpus(const std::string& sysfs = "/sys");

/// 1 to n where n is at most 8; above, about two for each doubling, and n itself.
std::vector<std::uint32_t> default_thread_counts(std::uint32_t n_cpus);

/// What the largest working set may take: a quarter of the free memory (of the container, where it has a limit), and
/// at most 2 GiB.
std::uint64_t memory_cap_bytes();

/// Sizes for threads on these CPUs: half of their L2 caches; in their L3 caches at two sizes; beyond all of them.
/// The caches are those that sysfs names, else assumed, which the choice then says.
std::vector<WorkingSet> choose_working_sets(const std::vector<int>& cpus, std::uint64_t cap_bytes,
                                            const std::string& sysfs = "/sys");

/// The instruction families of this architecture that ggml has kernels for.
std::vector<ArithmeticFamily> arithmetic_families();

/// Runs about that many multiply-adds in the family's instructions, on this thread, with operands whose product is 1.
/// Raises: Error(kInvalidArgument) if there is no such family here.
ArithmeticCheck run_arithmetic(const std::string& family, double multiply_adds);

/// Measures all of it; on two threads in about six seconds. Starts and ends threads of its own.
/// Raises: Error(kInvalidArgument); Error(kOutOfMemory) if the working set cannot be had; Error(kCancelled);
/// Error(kRuntime) if threads cannot be started, or a kernel's result is wrong.
CeilingResult measure_ceilings(const CeilingOptions& options);

}  // namespace melt
