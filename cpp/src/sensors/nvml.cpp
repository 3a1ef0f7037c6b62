// SPDX-License-Identifier: Apache-2.0
// NVIDIA GPUs through their own library (NVML API reference, libnvidia-ml.so.1), opened at run time: nothing of it is
// needed to build or to run without such a GPU. What the driver gives as power is, by GPU, an average over up to a
// second or sampled a quarter of the time; the energy counter (Volta and later) has no such gaps.
#include <dlfcn.h>

#include <cmath>
#include <cstdlib>
#include <memory>
#include <utility>

#include "sensors/catalog.h"
#include "sensors/file_source.h"

namespace melt {
namespace {

using Device = struct nvmlDevice_st*;
constexpr int kSuccess = 0;
constexpr int kNotSupported = 3;
constexpr int kNoPermission = 4;
constexpr int kGpuIsLost = 15;
constexpr int kClockSm = 1;
constexpr int kTemperatureGpu = 0;

struct Utilization {
  unsigned gpu;
  unsigned memory;
};

/// The functions that are used, with the signatures of nvml.h.
struct Nvml {
  int (*init)() = nullptr;
  int (*shutdown)() = nullptr;
  const char* (*error_string)(int) = nullptr;
  int (*device_count)(unsigned*) = nullptr;
  int (*device)(unsigned, Device*) = nullptr;
  int (*name)(Device, char*, unsigned) = nullptr;
  int (*energy)(Device, unsigned long long*) = nullptr;  // mJ
  int (*power)(Device, unsigned*) = nullptr;             // mW
  int (*temperature)(Device, int, unsigned*) = nullptr;  // degC
  int (*clock)(Device, int, unsigned*) = nullptr;        // MHz
  int (*utilization)(Device, Utilization*) = nullptr;    // percent
  void* library = nullptr;

  ~Nvml() {
    if (library == nullptr)
      return;
    if (shutdown != nullptr)
      shutdown();
    dlclose(library);
  }

  template <typename Function>
  bool find(Function& function, const char* symbol) {
    function = reinterpret_cast<Function>(dlsym(library, symbol));
    return function != nullptr;
  }

  bool find_all() {
    return find(init, "nvmlInit_v2") && find(error_string, "nvmlErrorString") &&
           find(device_count, "nvmlDeviceGetCount_v2") && find(device, "nvmlDeviceGetHandleByIndex_v2") &&
           find(name, "nvmlDeviceGetName") && find(energy, "nvmlDeviceGetTotalEnergyConsumption") &&
           find(power, "nvmlDeviceGetPowerUsage") && find(temperature, "nvmlDeviceGetTemperature") &&
           find(clock, "nvmlDeviceGetClockInfo") && find(utilization, "nvmlDeviceGetUtilizationRates");
  }
};

double fault_of_nvml(int status) noexcept {
  if (status == kNoPermission)
    return fault_value(ReadingFault::kDenied);
  return fault_value(status == kGpuIsLost ? ReadingFault::kVanished : ReadingFault::kFailed);
}

class Gpu final : public SensorSource {
 public:
  Gpu(std::shared_ptr<Nvml> nvml, unsigned number, Device device, SensorCatalog& catalog)
      : nvml_(std::move(nvml)), device_(device) {
    char name[96] = "";
    nvml_->name(device_, name, sizeof name);
    const std::string site = "gpu-" + std::to_string(number);
    const auto add = [&](const char* kind, const char* unit, const char* call, double (Gpu::*reader)() noexcept) {
      const double first = (this->*reader)();
      if (fault_of(first) == ReadingFault::kOk) {
        channels_.push_back(catalog.channel(site, kind, unit, std::string("NVML ") + call + ", " + name));
        readers_.push_back(reader);
      } else {
        catalog.absent("nvml/" + site + "/" + kind, std::string(call) + ": " + nvml_->error_string(last_status_));
      }
    };
    add("energy", "J", "GetTotalEnergyConsumption", &Gpu::energy_j);
    add("power", "W", "GetPowerUsage", &Gpu::power_w);
    add("temperature", "degC", "GetTemperature", &Gpu::temperature_c);
    add("frequency", "Hz", "GetClockInfo SM", &Gpu::frequency_hz);
    add("load", "ratio", "GetUtilizationRates", &Gpu::load);
  }

  const std::vector<Channel>& channels() const noexcept override { return channels_; }
  double max_rate_hz() const noexcept override { return 20.0; }
  void read(double* values) noexcept override {
    for (const auto reader : readers_)
      *values++ = (this->*reader)();
  }

 private:
  double energy_j() noexcept {
    unsigned long long value = 0;
    last_status_ = nvml_->energy(device_, &value);
    return last_status_ == kSuccess ? static_cast<double>(value) * 1e-3 : fault_of_nvml(last_status_);
  }
  double power_w() noexcept { return whole(nvml_->power, 1e-3, kPowerRangeW); }
  double temperature_c() noexcept {
    unsigned value = 0;
    last_status_ = nvml_->temperature(device_, kTemperatureGpu, &value);
    return scaled(value, 1.0, kTemperatureRangeC);
  }
  double frequency_hz() noexcept {
    unsigned value = 0;
    last_status_ = nvml_->clock(device_, kClockSm, &value);
    return scaled(value, 1e6, kFrequencyRangeHz);
  }
  double load() noexcept {
    Utilization value{};
    last_status_ = nvml_->utilization(device_, &value);
    return scaled(value.gpu, 0.01, kShareRange);
  }
  double whole(int (*call)(Device, unsigned*), double scale, Range range) noexcept {
    unsigned value = 0;
    last_status_ = call(device_, &value);
    return scaled(value, scale, range);
  }
  double scaled(unsigned value, double scale, Range range) const noexcept {
    return last_status_ == kSuccess ? checked(value * scale, range.low, range.high) : fault_of_nvml(last_status_);
  }

  std::shared_ptr<Nvml> nvml_;
  Device device_;
  int last_status_ = kNotSupported;
  std::vector<Channel> channels_;
  std::vector<double (Gpu::*)() noexcept> readers_;
};

}  // namespace

void find_nvml(SensorCatalog& catalog) {
  const char* path = std::getenv("MELT_NVML_LIBRARY");  // another place, as with several drivers on one machine
  path = path != nullptr && *path != '\0' ? path : "libnvidia-ml.so.1";
  const auto nvml = std::make_shared<Nvml>();
  nvml->library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (nvml->library == nullptr) {
    const char* error = dlerror();
    catalog.absent("nvml", error != nullptr ? error : std::string(path) + " cannot be opened");
    return;
  }
  if (!nvml->find_all()) {
    catalog.absent("nvml", std::string(path) + " is too old, or no NVML: a function is missing");
    return;
  }
  unsigned n_devices = 0;
  int status = nvml->init();
  if (status == kSuccess) {
    nvml->find(nvml->shutdown, "nvmlShutdown");
    status = nvml->device_count(&n_devices);
  }
  if (status != kSuccess || n_devices == 0) {
    catalog.absent("nvml", status != kSuccess ? nvml->error_string(status) : "there is no NVIDIA GPU");
    return;
  }
  for (unsigned number = 0; number < n_devices; ++number) {
    Device device = nullptr;
    status = nvml->device(number, &device);
    if (status == kSuccess)
      catalog.add(std::make_unique<Gpu>(nvml, number, device, catalog));
    else
      catalog.absent("nvml/gpu-" + std::to_string(number), nvml->error_string(status));
  }
}

}  // namespace melt
