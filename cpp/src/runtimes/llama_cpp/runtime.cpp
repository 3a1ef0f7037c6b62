// SPDX-License-Identifier: Apache-2.0
// The llama.cpp runtime: https://github.com/ggml-org/llama.cpp at the commit of third_party/pins.toml.
#include "ggml-cpu.h"
#include "melt/error.h"
#include "melt_build_info.h"
#include "memory_parts.h"
#include "runtimes/runtimes.h"
#include "session.h"

namespace melt {
namespace llama_cpp {
namespace {

class LlamaRuntime final : public Runtime {
 public:
  std::string name() const override { return "llama.cpp"; }

  std::vector<std::pair<std::string, std::string>> details() const override {
    initialise();
    return {{"version", llama_version()},
            {"commit", MELT_BUILD_LLAMA_CPP_COMMIT},
            {"ggml_version", ggml_version()},
            {"cpu_kernels", llama_print_system_info()}};
  }

  std::unique_ptr<Clock> make_clock(const ModelOptions&) const override { return make_host_clock(); }

  std::unique_ptr<Session> load(const ModelOptions& options, Clock&) const override {
    return std::make_unique<LlamaSession>(options);
  }

  MemoryForecast predict_memory(const ModelOptions& options) const override {
    return llama_cpp::predict_memory(options);
  }

  std::unique_ptr<TextCodec> load_text(const std::string& path) const override { return load_vocabulary(path); }
};

}  // namespace
}  // namespace llama_cpp

std::unique_ptr<Runtime> make_llama_cpp_runtime() {
  return std::make_unique<llama_cpp::LlamaRuntime>();
}

}  // namespace melt
