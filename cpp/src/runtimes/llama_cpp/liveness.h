// SPDX-License-Identifier: Apache-2.0
// How many bytes of activations are needed at each op of a graph: liveness over the graph, as a compiler's register
// allocator knows it. What ggml's allocator (ggml-alloc.c) then lays out in the compute buffer is at least the peak.
#pragma once

#include <vector>

#include "topology.h"

namespace melt::llama_cpp {

/// Bytes of the compute buffer that hold something still needed while each node runs, by its place in
/// Topology::nodes: what it reads, what it writes, and what a later node reads. A storage is needed from the node that
/// first writes it (an input of the graph: from the beginning) to the last that reads or writes it or a view of it; an
/// output of the graph to the end. Storages that share addresses, as an op that works in place has them, count once.
/// Weights and caches are no activations: they lie in buffers of their own.
std::vector<double> live_activation_bytes(const Topology& topology);

}  // namespace melt::llama_cpp
