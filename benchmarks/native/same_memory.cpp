// SPDX-License-Identifier: Apache-2.0
#include "same_memory.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <new>

extern "C" void* __libc_memalign(std::size_t alignment, std::size_t size);
extern "C" void* __libc_malloc(std::size_t size);
extern "C" void __libc_free(void* block);

namespace {

constexpr std::size_t kLarge = 1 << 20;
constexpr std::size_t kScratch = 1 << 15;
constexpr std::size_t kPage = 4096;
constexpr std::size_t kMostBlocks = 256;

struct Block {
  void* address;
  std::size_t size;
  unsigned owner;  // who was the first to get it
  bool in_use;
  bool shared;
};

Block g_blocks[kMostBlocks];
std::size_t g_n_blocks = 0;
unsigned g_owner = 0;
bool g_sharing = true;
bool g_sharing_scratch = false;
std::mutex g_mutex;

/// Returns the file that the next program finds again for its `nth` block of this size.
int open_file(const char* folder, std::size_t size, std::size_t nth) {
  char path[512];
  std::snprintf(path, sizeof path, "%s/%zu-%zu", folder, size, nth);
  const int file = ::open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (file < 0 || ::ftruncate(file, static_cast<off_t>(size)) != 0) {
    std::perror(path);
    std::abort();  // a benchmark that measures something else than it says is worse than none
  }
  return file;
}

/// Returns new memory, `nth` of its size.
void* map_block(std::size_t size, std::size_t nth) {
  const char* folder = std::getenv("MELT_BENCH_MEMORY");
  if (folder == nullptr)
    return ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  const int file = open_file(folder, size, nth);
  void* mapped = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  ::close(file);
  return mapped;
}

/// Returns the first block of this size that is free, else a new one; null if there is none to be had.
void* large_block(std::size_t size) {
  const std::lock_guard<std::mutex> lock(g_mutex);
  std::size_t n_of_size = 0;
  for (std::size_t i = 0; i < g_n_blocks; ++i) {
    if (g_blocks[i].size != size)
      continue;
    if (!g_blocks[i].in_use) {
      g_blocks[i].in_use = true;
      g_blocks[i].shared |= g_blocks[i].owner != g_owner;
      return g_blocks[i].address;
    }
    ++n_of_size;
  }
  if (g_n_blocks == kMostBlocks)
    return nullptr;
  void* mapped = map_block(size, n_of_size);
  if (mapped == MAP_FAILED)
    return nullptr;
  g_blocks[g_n_blocks++] = {mapped, size, g_owner, true, false};
  return mapped;
}

bool give_back(const void* address) {
  const std::lock_guard<std::mutex> lock(g_mutex);
  for (std::size_t i = 0; i < g_n_blocks; ++i) {
    if (g_blocks[i].address == address) {
      g_blocks[i].in_use = false;
      return true;
    }
  }
  return false;
}

}  // namespace

namespace melt_bench {

void share_blocks_again() {
  const std::lock_guard<std::mutex> lock(g_mutex);
  ++g_owner;
  for (std::size_t i = 0; i < g_n_blocks; ++i)
    g_blocks[i].in_use = false;
}

std::size_t stop_sharing_blocks() {
  const std::lock_guard<std::mutex> lock(g_mutex);
  g_sharing = false;
  std::size_t shared = 0;
  for (std::size_t i = 0; i < g_n_blocks; ++i)
    shared += g_blocks[i].shared ? g_blocks[i].size : 0;
  return shared;
}

void share_scratch(bool shares) {
  const std::lock_guard<std::mutex> lock(g_mutex);
  g_sharing_scratch = shares;
}

}  // namespace melt_bench

// ggml allocates the buffers of its CPU backend with posix_memalign.
extern "C" __attribute__((visibility("default"))) int posix_memalign(void** block, std::size_t alignment,
                                                                     std::size_t size) {
  void* found = g_sharing && size >= kLarge && alignment <= kPage ? large_block(size) : nullptr;
  if (found == nullptr)
    found = __libc_memalign(alignment, size);
  *block = found;
  return found == nullptr ? ENOMEM : 0;
}

// What ggml's products work in is the only large array that an evaluation makes with new[].
__attribute__((visibility("default"))) void* operator new[](std::size_t size) {
  void* found = g_sharing_scratch && size >= kScratch ? large_block(size) : nullptr;
  if (found == nullptr)
    found = std::malloc(size == 0 ? 1 : size);
  if (found == nullptr)
    throw std::bad_alloc();
  return found;
}

__attribute__((visibility("default"))) void operator delete[](void* block) noexcept {
  std::free(block);
}

__attribute__((visibility("default"))) void operator delete[](void* block, std::size_t) noexcept {
  std::free(block);
}

// Where nothing is shared, whether rows of that scratch memory lie at cache lines would be the heap's chance.
extern "C" __attribute__((visibility("default"))) void* malloc(std::size_t size) {
  return size >= kScratch ? __libc_memalign(kPage, size) : __libc_malloc(size);
}

extern "C" __attribute__((visibility("default"))) void free(void* block) {
  const bool may_be_large = reinterpret_cast<std::uintptr_t>(block) % kPage == 0;
  if (block != nullptr && (!may_be_large || !give_back(block)))
    __libc_free(block);
}
