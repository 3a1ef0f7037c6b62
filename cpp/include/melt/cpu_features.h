// SPDX-License-Identifier: Apache-2.0
// Instructions that kernels were compiled for against those that this CPU has: where one is missing the process would
// end by SIGILL in the middle of a graph.
#pragma once

#include <string>
#include <vector>

namespace melt {

/// Extensions this CPU and system offer, of those that kernels are compiled for; named as a compiler's -march has them.
std::vector<std::string> cpu_features();

/// Those of `needed`, named as above, that this CPU lacks, or that are not known here. Executes none of them.
std::vector<std::string> missing_cpu_features(const std::vector<std::string>& needed);

/// Extensions that this build's kernels of llama.cpp were compiled with, and those of them that this CPU lacks.
std::vector<std::string> compiled_cpu_features();
std::vector<std::string> missing_cpu_features();

/// What is missing and what to do, in one sentence; empty if nothing is missing.
std::string missing_cpu_features_message();

}  // namespace melt
