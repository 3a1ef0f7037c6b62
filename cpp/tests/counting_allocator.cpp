// SPDX-License-Identifier: Apache-2.0
#include "counting_allocator.h"

#include <cstdlib>
#include <new>

namespace {

thread_local melt::Allocated on_this_thread;

void* counted(std::size_t size) {
  ++on_this_thread.count;
  on_this_thread.bytes += size;
  if (void* memory = std::malloc(size == 0 ? 1 : size))
    return memory;
  throw std::bad_alloc();
}

}  // namespace

namespace melt {
Allocated allocated() noexcept {
  return on_this_thread;
}
}  // namespace melt

void* operator new(std::size_t size) {
  return counted(size);
}
void* operator new[](std::size_t size) {
  return counted(size);
}
void operator delete(void* memory) noexcept {
  std::free(memory);
}
void operator delete[](void* memory) noexcept {
  std::free(memory);
}
void operator delete(void* memory, std::size_t) noexcept {
  std::free(memory);
}
void operator delete[](void* memory, std::size_t) noexcept {
  std::free(memory);
}
