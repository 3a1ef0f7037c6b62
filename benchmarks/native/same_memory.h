// SPDX-License-Identifier: Apache-2.0
// The same memory for all engines that are compared. Physical memory is not alike: which of it a large block gets
// decides how the caches hold it, and makes two copies of one library differ by up to 13 % for as long as they live.
// So whoever allocates the same large blocks in the same order gets the same ones: weights, KV cache, compute buffers.
// And where malloc has larger blocks lie is chance too (rows of a product may cross cache lines): all are aligned, and
// the engines of one program share the scratch memory of products as well.
//
// Linked into a program, it serves the engines that the program opens one after the other. Preloaded (LD_PRELOAD) with
// MELT_BENCH_MEMORY=DIR, a folder of a tmpfs, it serves programs that run one after the other: blocks are files there.
#ifndef MELT_BENCH_SAME_MEMORY_H
#define MELT_BENCH_SAME_MEMORY_H

#include <cstddef>

namespace melt_bench {

/// From here on blocks are given out again, from the first, although they are in use: the engines take turns, and each
/// writes what the others would.
void share_blocks_again();
/// Whether large arrays of new[] are such blocks too: only where none holds what must last, as in an evaluation.
void share_scratch(bool shares);
/// From here on new blocks are new memory. Returns the bytes of the blocks that more than one has got.
std::size_t stop_sharing_blocks();

}  // namespace melt_bench

#endif  // MELT_BENCH_SAME_MEMORY_H
