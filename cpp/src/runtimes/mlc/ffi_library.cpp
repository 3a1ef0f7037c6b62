// SPDX-License-Identifier: Apache-2.0
// Finds and opens TVM's libraries: of the wheels apache-tvm-ffi and apache-tvm, of an app, or what Python has loaded.
#include <dlfcn.h>

#include <cstdlib>
#include <filesystem>
#include <mutex>

#include "ffi.h"
#include "melt/error.h"

namespace melt::mlc {
namespace {

namespace fs = std::filesystem;

#ifdef __APPLE__
constexpr const char* kFfiName = "libtvm_ffi.dylib";
constexpr const char* kRuntimeName = "libtvm_runtime.dylib";
#else
constexpr const char* kFfiName = "libtvm_ffi.so";
constexpr const char* kRuntimeName = "libtvm_runtime.so";
#endif

constexpr const char* kAdvice =
    "install apache-tvm (the extra melt_core[mlc]), or name the folders of libtvm_ffi and libtvm_runtime in "
    "MELT_TVM_PATH";

Tvm opened;
bool is_open = false;

[[noreturn]] void refuse(const std::string& message) {
  throw Error(ErrorKind::kInvalidArgument, message);
}

std::vector<std::string> split(const std::string& path) {
  std::vector<std::string> parts;
  for (std::size_t begin = 0; begin <= path.size();) {
    const std::size_t end = std::min(path.find(':', begin), path.size());
    if (end > begin)
      parts.push_back(path.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

/// A library by name in the given places, of which some may be library files themselves; empty if in none.
std::string find_library(const std::vector<std::string>& places, const char* name) {
  std::error_code ignored;
  for (const std::string& place : places) {
    const fs::path in_folder = fs::path(place) / name;
    if (fs::is_regular_file(in_folder, ignored))
      return in_folder.string();
  }
  for (const std::string& place : places) {
    if (fs::is_regular_file(place, ignored))
      return place;  // an app's one library that holds both
  }
  return "";
}

void* open_file(const std::string& file) {
  // Global, because the model libraries that TVM opens resolve against it.
  void* handle = dlopen(file.c_str(), RTLD_NOW | RTLD_GLOBAL);
  if (handle == nullptr) {
    const char* reason = dlerror();
    refuse("cannot open " + file + ": " + (reason != nullptr ? reason : "unknown reason") +
           " (libtvm_ffi and libtvm_runtime must be of releases that belong together)");
  }
  return handle;
}

void* open_library(const std::vector<std::string>& places, const std::string& places_text, const char* name) {
  if (!places.empty()) {
    const std::string file = find_library(places, name);
    if (file.empty())
      refuse("no " + std::string(name) + " in " + places_text + ": " + kAdvice);
    // Another copy would have a table of functions of its own, beside the one that is in use.
    if (void* handle = dlopen(name, RTLD_NOW | RTLD_GLOBAL | RTLD_NOLOAD)) {
      Dl_info info{};
      std::error_code failed;
      const void* address =
          dlsym(handle, name == std::string(kFfiName) ? "TVMFFIGetVersion" : "TVMBackendParallelLaunch");
      if (address != nullptr && dladdr(address, &info) != 0 && !fs::equivalent(info.dli_fname, file, failed))
        refuse("this process has loaded " + std::string(info.dli_fname) + " already: use " + file +
               " in a new process");
      return handle;
    }
    return open_file(file);
  }
  if (void* handle = dlopen(name, RTLD_NOW | RTLD_GLOBAL | RTLD_NOLOAD))
    return handle;
  if (void* handle = dlopen(name, RTLD_NOW | RTLD_GLOBAL))
    return handle;
  refuse("the MLC runtime needs TVM, and no " + std::string(name) + " was found: " + kAdvice);
}

template <typename Function>
void find_symbol(void* handle, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(handle, name));
  if (function == nullptr)
    refuse(std::string("libtvm_ffi lacks ") + name + ": it is older than 0.1; " + kAdvice);
}

FfiFunctions find_functions(void* handle) {
  FfiFunctions ffi{};
  find_symbol(handle, "TVMFFIGetVersion", ffi.get_version);
  find_symbol(handle, "TVMFFIFunctionGetGlobal", ffi.get_global);
  find_symbol(handle, "TVMFFIFunctionSetGlobal", ffi.set_global);
  find_symbol(handle, "TVMFFIFunctionCreate", ffi.create_function);
  find_symbol(handle, "TVMFFIObjectIncRef", ffi.inc_ref);
  find_symbol(handle, "TVMFFIObjectDecRef", ffi.dec_ref);
  find_symbol(handle, "TVMFFIStringFromByteArray", ffi.make_string);
  find_symbol(handle, "TVMFFITensorFromDLPack", ffi.make_tensor);
  find_symbol(handle, "TVMFFIErrorMoveFromRaised", ffi.take_error);
  find_symbol(handle, "TVMFFIErrorSetRaisedFromCStr", ffi.raise_error);
  return ffi;
}

std::string file_of(void* handle, const char* symbol) {
  Dl_info info{};
  void* address = dlsym(handle, symbol);
  return address != nullptr && dladdr(address, &info) != 0 && info.dli_fname != nullptr ? info.dli_fname : "";
}

/// "0.27.0" for .../tvm/lib/libtvm_runtime.so beside .../apache_tvm-0.27.0.dist-info.
std::string wheel_version(const std::string& library) {
  constexpr std::string_view kPrefix = "apache_tvm-", kSuffix = ".dist-info";
  std::error_code failed;
  const fs::path packages = fs::path(library).parent_path().parent_path().parent_path();
  for (fs::directory_iterator it(packages, failed), end; !failed && it != end; it.increment(failed)) {
    const std::string name = it->path().filename().string();
    if (name.size() > kPrefix.size() + kSuffix.size() && name.compare(0, kPrefix.size(), kPrefix) == 0 &&
        name.compare(name.size() - kSuffix.size(), kSuffix.size(), kSuffix) == 0)
      return name.substr(kPrefix.size(), name.size() - kPrefix.size() - kSuffix.size());
  }
  return "";
}

bool lies_in(const std::string& library, const std::vector<std::string>& places) {
  std::error_code failed;
  for (const std::string& place : places) {
    if (fs::equivalent(fs::path(library).parent_path(), place, failed) || fs::equivalent(library, place, failed))
      return true;
  }
  return false;
}

}  // namespace

const Tvm& tvm() noexcept {
  return opened;
}

const Tvm& open_tvm(const std::string& path) {
  static std::mutex mutex;
  const std::lock_guard<std::mutex> guard(mutex);
  const char* variable = std::getenv("MELT_TVM_PATH");
  const std::string chosen = variable != nullptr && *variable != '\0' ? variable : path;
  const std::vector<std::string> places = split(chosen);
  if (is_open) {
    if (!places.empty() && !lies_in(opened.path, places)) {
      refuse("this process has opened the TVM of " + opened.path + " already, and can hold one only: use " + chosen +
             " in a new process");
    }
    return opened;
  }
  void* ffi_library = open_library(places, chosen, kFfiName);
  Tvm found;
  found.ffi = find_functions(ffi_library);
  found.ffi.get_version(&found.version);
  if (found.version.major != TVM_FFI_VERSION_MAJOR || found.version.minor != TVM_FFI_VERSION_MINOR) {
    refuse("libtvm_ffi is version " + std::to_string(found.version.major) + "." + std::to_string(found.version.minor) +
           "." + std::to_string(found.version.patch) + ", and this build knows 0.1: install apache-tvm-ffi 0.1.*");
  }
  void* runtime_library = open_library(places, chosen, kRuntimeName);
  found.path = file_of(runtime_library, "TVMBackendParallelLaunch");
  found.tvm_version = wheel_version(found.path);
  opened = std::move(found);
  is_open = true;
  return opened;
}

}  // namespace melt::mlc
