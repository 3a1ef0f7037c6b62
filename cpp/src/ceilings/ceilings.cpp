// SPDX-License-Identifier: Apache-2.0
#include "melt/ceilings.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <memory>

#include "kernels.h"
#include "melt/error.h"
#include "rounds.h"

namespace melt {
namespace {

using ceilings::Family;
using ceilings::Reader;
using ceilings::RoundOptions;
using ceilings::Rounds;

constexpr std::uint64_t kBlockBytes = 65536, kBlockWords = kBlockBytes / 8;

/// Sum of first, first + 1, ... modulo 2^64: what `n` words hold of which each is its own number.
std::uint64_t sum_of_numbers(std::uint64_t first, std::uint64_t n) {
  const std::uint64_t triangle = n % 2 == 0 ? n / 2 * (n - 1) : (n - 1) / 2 * n;
  return n * first + triangle;
}

/// Memory in which each 8-byte word holds its own number.
class Words {
 public:
  Words(std::uint64_t bytes, bool huge_pages, const RoundOptions& threads) : bytes_(bytes) {
    void* mapping = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapping == MAP_FAILED)
      throw Error(ErrorKind::kOutOfMemory, "cannot map " + std::to_string(bytes) +
                                               " bytes to measure bandwidth: free memory, or set a smaller limit");
    words_ = static_cast<std::uint64_t*>(mapping);
#if defined(MADV_HUGEPAGE)
    madvise(mapping, bytes, huge_pages ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
#else
    static_cast<void>(huge_pages);
#endif
    ceilings::run_on_threads(threads, [&](std::uint32_t thread) {  // first touched by those who will read
      const std::uint64_t n = bytes_ / 8, first = n * thread / threads.n_threads;
      const std::uint64_t end = n * (thread + 1) / threads.n_threads;
      for (std::uint64_t word = first; word < end; ++word)
        words_[word] = word;
    });
  }
  ~Words() { munmap(words_, bytes_); }
  Words(const Words&) = delete;
  Words& operator=(const Words&) = delete;
  const std::uint64_t* data() const noexcept { return words_; }

 private:
  std::uint64_t bytes_;
  std::uint64_t* words_ = nullptr;
};

/// Where a thread has got to in its slice; on a cache line of its own.
struct alignas(64) Cursor {
  std::uint64_t next_word = 0;
};

class Measuring {
 public:
  explicit Measuring(const CeilingOptions& options) : options_(options), cpus_(usable_cpus()) {
    counts_ = options.thread_counts;
    if (counts_.empty())
      counts_ = default_thread_counts(static_cast<std::uint32_t>(cpus_.size()));
    check();
    families_ = ceilings::families();
    readers_ = ceilings::readers();
    if (options.sequential_reads)
      readers_.resize(1);
    result_.read_instructions = readers_.front().instructions;
    result_.pinned = true;
    cap_ = options.max_memory_bytes != 0 ? options.max_memory_bytes : memory_cap_bytes();
  }

  CeilingResult run() {
    plan_sets();
    measure_bandwidth();
    measure_arithmetic();
#if !defined(__OPTIMIZE__)
    result_.notes.emplace_back("this build of the core is not optimised: the figures are far too low");
#endif
    return std::move(result_);
  }

 private:
  struct Planned {
    WorkingSet set;
    std::uint32_t n_threads;
  };

  void check() const {
    for (const std::uint32_t n : counts_) {
      if (n < 1 || n > cpus_.size())
        throw Error(ErrorKind::kInvalidArgument, "ceilings on " + std::to_string(n) +
                                                     " threads: this process may use " + std::to_string(cpus_.size()) +
                                                     " CPUs");
    }
    if (!(options_.measurement_s > 0.0 && options_.measurement_s <= 10.0))
      throw Error(ErrorKind::kInvalidArgument, "the time of one measurement must be above 0 and at most 10 s");
  }

  std::vector<int> first_cpus(std::uint32_t n) const { return {cpus_.begin(), cpus_.begin() + n}; }

  RoundOptions rounds(std::uint32_t n_threads) const {
    RoundOptions made;
    if (options_.pin_threads)
      made.cpus = first_cpus(n_threads);
    made.n_threads = n_threads;
    made.cancel = options_.cancel;
    return made;
  }

  void plan_sets() {
    for (const std::uint32_t n : counts_) {
      for (const WorkingSet& set : choose_working_sets(first_cpus(n), cap_)) {
        if (set.bytes == 0)
          result_.absent.push_back({CeilingKind::kReadBandwidth, set.name, n, set.choice});
        else
          planned_.push_back({set, n});
      }
    }
    std::size_t usable = 0;
    for (const Family& family : families_)
      usable += family.absent_reason == nullptr ? 1 : 0;
    n_steps_ = 1 + planned_.size() + usable * counts_.size();
  }

  void measure_bandwidth() {
    if (planned_.empty())
      return;
    std::uint64_t largest = 0;
    for (const Planned& plan : planned_)
      largest = std::max(largest, plan.set.bytes);
    step("preparing memory");
    const Words words(largest, options_.huge_pages, rounds(*std::max_element(counts_.begin(), counts_.end())));
    for (const Planned& plan : planned_) {
      step("read " + plan.set.name + ", " + std::to_string(plan.n_threads) + " thr");
      read_set(plan, words);
    }
  }

  /// Which way to read is the fastest here shows in a fifth of the time; the figures are from the whole of it.
  void read_set(const Planned& plan, const Words& words) {
    Reader fastest = readers_.front();
    double best = 0.0;
    std::vector<Cursor> cursors(plan.n_threads);  // kept: who began anew would find in L3 what was just read
    for (const Reader& reader : readers_) {
      Ceiling tried;
      set_rates(tried, read_with(reader.read, plan, words, cursors, options_.measurement_s / 5), kBlockBytes);
      if (tried.median > best) {  // of few rounds, the best one says more of the neighbours than of the reader
        best = tried.median;
        fastest = reader;
      }
    }
    Ceiling row{CeilingKind::kReadBandwidth, plan.set.name, plan.set.bytes, plan.n_threads};
    set_rates(row, read_with(fastest.read, plan, words, cursors, options_.measurement_s), kBlockBytes);
    result_.ceilings.push_back(std::move(row));
    result_.notes.push_back(plan.set.name + ", " + std::to_string(plan.n_threads) +
                            (plan.n_threads == 1 ? " thread: " : " threads: ") + std::to_string(plan.set.bytes) +
                            " bytes, " + plan.set.choice + "; " + fastest.instructions +
                            (fastest.n_streams == 1 ? "" : " in " + std::to_string(fastest.n_streams) + " streams"));
  }

  Rounds read_with(ceilings::ReadKernel read, const Planned& plan, const Words& words, std::vector<Cursor>& cursors,
                   double seconds) {
    const std::uint64_t slice = plan.set.bytes / 8 / plan.n_threads;
    const auto work = [&](std::uint32_t thread, std::uint64_t blocks) {
      return read_slice(read, words.data(), slice * thread, slice, cursors[thread], blocks * kBlockWords);
    };
    return timed(plan.n_threads, work, seconds);
  }

  Rounds timed(std::uint32_t n_threads, const ceilings::Work& work, double seconds) {
    RoundOptions options = rounds(n_threads);
    options.total_ns = static_cast<std::int64_t>(seconds * 1e9);
    Rounds found = ceilings::time_rounds(options, work);
    result_.pinned = result_.pinned && found.pinned;
    return found;
  }

  /// Reads on from where the thread was, round and round its slice, so that what it reads was longest unread.
  static bool read_slice(ceilings::ReadKernel read, const std::uint64_t* words, std::uint64_t first,
                         std::uint64_t slice, Cursor& cursor, std::uint64_t n) {
    bool right = true;
    while (n > 0) {
      const std::uint64_t piece = std::min(n, slice - cursor.next_word), from = first + cursor.next_word;
      right = right && read(words + from, piece) == sum_of_numbers(from, piece);
      cursor.next_word = (cursor.next_word + piece) % slice;
      n -= piece;
    }
    return right;
  }

  void measure_arithmetic() {
    for (const Family& family : families_) {
      if (family.absent_reason != nullptr) {
        result_.absent.push_back({CeilingKind::kFlops, family.name, 0, family.absent_reason});
        continue;
      }
      constexpr std::uint64_t kPasses = 256;
      for (const std::uint32_t n : counts_) {
        step(std::string(family.name) + ", " + std::to_string(n) + " thr");
        const auto work = [&](std::uint32_t, std::uint64_t amount) { return compute(family, amount * kPasses); };
        Ceiling row{CeilingKind::kFlops, family.name, 0, n};
        set_rates(row, timed(n, work, options_.measurement_s),
                  2.0 * static_cast<double>(family.macs_per_pass * kPasses));
        result_.ceilings.push_back(std::move(row));
      }
    }
  }

  static bool compute(const Family& family, std::uint64_t passes) {
    bool right = true;
    while (passes > 0) {
      const std::uint64_t part = std::min(passes, ceilings::kMaxPasses);
      right = right && family.run(part) == static_cast<double>(part * family.macs_per_pass);
      passes -= part;
    }
    return right;
  }

  static void set_rates(Ceiling& row, const Rounds& rounds, double per_unit) {
    std::vector<double> rates = rounds.units_per_s;
    std::sort(rates.begin(), rates.end());
    const std::size_t n = rates.size();
    row.best = rates.back() * per_unit;
    row.median = (rates[(n - 1) / 2] + rates[n / 2]) / 2 * per_unit;
    row.n_rounds = static_cast<std::uint32_t>(n);
  }

  void step(const std::string& label) {
    if (options_.on_progress)
      options_.on_progress(label, static_cast<double>(n_done_) / static_cast<double>(n_steps_));
    ++n_done_;
    if (options_.cancel != nullptr && options_.cancel->load())
      throw Error(ErrorKind::kCancelled, "cancelled while measuring ceilings");
  }

  const CeilingOptions& options_;
  const std::vector<int> cpus_;
  std::vector<std::uint32_t> counts_;
  std::vector<Family> families_;
  std::vector<Reader> readers_;
  std::uint64_t cap_ = 0;
  std::vector<Planned> planned_;
  std::size_t n_steps_ = 1, n_done_ = 0;
  CeilingResult result_;
};

}  // namespace

std::vector<ArithmeticFamily> arithmetic_families() {
  std::vector<ArithmeticFamily> named;
  for (const Family& family : ceilings::families())
    named.push_back({family.name, family.instructions, family.absent_reason == nullptr ? "" : family.absent_reason});
  return named;
}

ArithmeticCheck run_arithmetic(const std::string& name, double multiply_adds) {
  for (const Family& family : ceilings::families()) {
    if (name != family.name || family.absent_reason != nullptr)
      continue;
    const double wanted = multiply_adds / static_cast<double>(family.macs_per_pass);
    const auto passes =
        static_cast<std::uint64_t>(std::min(std::max(wanted, 1.0), static_cast<double>(ceilings::kMaxPasses)));
    return {static_cast<double>(passes * family.macs_per_pass), family.run(passes)};
  }
  throw Error(ErrorKind::kInvalidArgument, "no instruction family " + name + " here: see arithmetic_families()");
}

CeilingResult measure_ceilings(const CeilingOptions& options) {
  return Measuring(options).run();
}

}  // namespace melt
