// SPDX-License-Identifier: Apache-2.0
// The MLC runtime: model libraries compiled by Apache TVM, run by TVM's virtual machine through its C interface.
#include "capabilities.h"
#include "memory_parts.h"
#include "runtimes/runtimes.h"
#include "session.h"

namespace melt {
namespace mlc {
namespace {

class MlcRuntime final : public Runtime {
 public:
  std::string name() const override { return "mlc"; }

  /// TVM's version once it is open; before that, what it was built against.
  std::vector<std::pair<std::string, std::string>> details() const override {
    const std::string header = std::to_string(TVM_FFI_VERSION_MAJOR) + "." + std::to_string(TVM_FFI_VERSION_MINOR) +
                               "." + std::to_string(TVM_FFI_VERSION_PATCH);
    std::vector<std::pair<std::string, std::string>> details{{"ffi_header_version", header}};
    if (tvm().ffi.get_version == nullptr)
      return details;
    const TVMFFIVersion& version = tvm().version;
    if (!tvm().tvm_version.empty())
      details.emplace_back("version", tvm().tvm_version);
    details.emplace_back("ffi_version", std::to_string(version.major) + "." + std::to_string(version.minor) + "." +
                                            std::to_string(version.patch));
    details.emplace_back("library", tvm().path);
    return details;
  }

  std::unique_ptr<Clock> make_clock(const ModelOptions&) const override { return make_host_clock(); }

  std::unique_ptr<Session> load(const ModelOptions& options, Clock&) const override {
    return std::make_unique<MlcSession>(options);
  }

  MemoryForecast predict_memory(const ModelOptions& options) const override { return mlc::predict_memory(options); }

  std::unique_ptr<TextCodec> load_text(const std::string& path) const override {
    return std::make_unique<Text>(read_model_folder(path), nullptr);
  }
};

}  // namespace
}  // namespace mlc

std::unique_ptr<Runtime> make_mlc_runtime() {
  return std::make_unique<mlc::MlcRuntime>();
}

}  // namespace melt
