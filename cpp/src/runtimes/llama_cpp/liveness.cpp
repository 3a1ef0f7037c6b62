// SPDX-License-Identifier: Apache-2.0
#include "liveness.h"

#include <algorithm>
#include <cstdint>
#include <unordered_map>

namespace melt::llama_cpp {
namespace {

/// A storage, and the nodes from the first to the last that need it.
struct Lifetime {
  std::uintptr_t begin;
  std::uintptr_t end;
  std::uint32_t first;
  std::uint32_t last;
};

std::vector<Lifetime> lifetimes_of(const Topology& topology) {
  std::vector<Lifetime> found;
  std::unordered_map<const void*, std::size_t> place;
  const auto note = [&](const CapturedTensor& tensor, std::uint32_t first, std::uint32_t last) {
    if (tensor.activation == nullptr)
      return;
    const auto [at, is_new] = place.emplace(tensor.root, found.size());
    if (is_new) {
      const auto begin = reinterpret_cast<std::uintptr_t>(tensor.activation);
      found.push_back({begin, begin + tensor.activation_bytes, first, last});
    } else {
      found[at->second].last = std::max(found[at->second].last, last);
    }
  };
  for (std::uint32_t i = 0; i < topology.n_nodes; ++i) {
    const CapturedNode& node = topology.nodes[i];
    for (std::uint32_t k = 0; k < node.n_sources; ++k)
      note(topology.sources(node)[k], 0, i);  // read before any node wrote it: an input, filled before the graph
    note(node.tensor, i, node.is_output ? topology.n_nodes - 1 : i);
  }
  return found;
}

/// Bytes that at least one of the storages covers.
double covered_bytes(std::vector<Lifetime> live) {
  std::sort(live.begin(), live.end(), [](const Lifetime& a, const Lifetime& b) { return a.begin < b.begin; });
  std::uintptr_t reached = 0, bytes = 0;
  for (const Lifetime& storage : live) {
    if (storage.end <= reached)
      continue;
    bytes += storage.end - std::max(reached, storage.begin);
    reached = storage.end;
  }
  return static_cast<double>(bytes);
}

}  // namespace

std::vector<double> live_activation_bytes(const Topology& topology) {
  std::vector<Lifetime> waiting = lifetimes_of(topology);
  std::sort(waiting.begin(), waiting.end(), [](const Lifetime& a, const Lifetime& b) { return a.first > b.first; });
  std::vector<Lifetime> live;
  std::vector<double> bytes(topology.n_nodes);
  for (std::uint32_t i = 0; i < topology.n_nodes; ++i) {
    while (!waiting.empty() && waiting.back().first <= i) {
      live.push_back(waiting.back());
      waiting.pop_back();
    }
    bytes[i] = covered_bytes(live);
    live.erase(std::remove_if(live.begin(), live.end(), [&](const Lifetime& storage) { return storage.last <= i; }),
               live.end());
  }
  return bytes;
}

}  // namespace melt::llama_cpp
