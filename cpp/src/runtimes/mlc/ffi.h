// SPDX-License-Identifier: Apache-2.0
// libtvm_ffi and libtvm_runtime, opened at run time: nothing of TVM is linked. Mirrors tvm/ffi/c_api.h.
#pragma once

#include <tvm/ffi/c_api.h>

#include <cstdint>
#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

namespace melt::mlc {

/// The C functions that we call.
struct FfiFunctions {
  decltype(&TVMFFIGetVersion) get_version;
  decltype(&TVMFFIFunctionGetGlobal) get_global;
  decltype(&TVMFFIFunctionSetGlobal) set_global;
  decltype(&TVMFFIFunctionCreate) create_function;
  decltype(&TVMFFIObjectIncRef) inc_ref;
  decltype(&TVMFFIObjectDecRef) dec_ref;
  decltype(&TVMFFIStringFromByteArray) make_string;
  decltype(&TVMFFITensorFromDLPack) make_tensor;
  decltype(&TVMFFIErrorMoveFromRaised) take_error;
  decltype(&TVMFFIErrorSetRaisedFromCStr) raise_error;
};

/// What has been opened in this process.
struct Tvm {
  FfiFunctions ffi;
  TVMFFIVersion version;    ///< of the foreign function interface
  std::string path;         ///< of libtvm_runtime
  std::string tvm_version;  ///< of the wheel that it lies in; empty if it lies in none
};

/// Opens TVM, once in a process and for good: its libraries cannot be unloaded.
/// `path`: folders or library files, separated by ':', to look in; empty: what is loaded already, or else what the
/// system's loader finds. The environment variable MELT_TVM_PATH goes before both.
/// Raises: Error(kInvalidArgument) if there is none, if it does not fit, or if another one has been opened before.
const Tvm& open_tvm(const std::string& path);

/// What open_tvm() has opened. Call after it.
const Tvm& tvm() noexcept;

/// Owns a value of TVM's: counts as one reference to an object.
class Value {
 public:
  Value() noexcept = default;
  /// Takes over a reference that the caller holds.
  explicit Value(TVMFFIAny owned) noexcept : any_(owned) {}
  Value(Value&& other) noexcept : any_(std::exchange(other.any_, TVMFFIAny{})) {}
  Value& operator=(Value&& other) noexcept {
    std::swap(any_, other.any_);
    return *this;
  }
  Value(const Value&) = delete;
  Value& operator=(const Value&) = delete;
  ~Value() {
    if (any_.type_index >= kTVMFFIStaticObjectBegin)
      tvm().ffi.dec_ref(any_.v_obj);
  }

  const TVMFFIAny& any() const noexcept { return any_; }
  bool is_none() const noexcept { return any_.type_index == kTVMFFINone; }
  bool is_function() const noexcept { return any_.type_index == kTVMFFIFunction; }
  std::string as_string() const;               ///< empty if it is none
  const DLTensor* as_tensor() const noexcept;  ///< null if it is none

 private:
  TVMFFIAny any_{};
};

/// The tensor behind an argument; null if it is none.
inline const DLTensor* tensor_of(const TVMFFIAny& any) noexcept {
  if (any.type_index == kTVMFFITensor)
    return reinterpret_cast<const DLTensor*>(reinterpret_cast<const char*>(any.v_obj) + sizeof(TVMFFIObject));
  return any.type_index == kTVMFFIDLTensorPtr ? static_cast<const DLTensor*>(any.v_ptr) : nullptr;
}

TVMFFIAny any_of(std::int64_t value) noexcept;
TVMFFIAny any_of_text(const char* text) noexcept;  ///< not copied

Value make_string(const std::string& text);
Value make_shape(std::initializer_list<std::int64_t> extents);
Value make_array(const std::vector<TVMFFIAny>& items);

/// A function of TVM's global table; none if there is no such function.
Value global_function(const std::string& name);
/// Puts a function into that table; replaces the one there is.
void set_global_function(const std::string& name, const TVMFFIAny& function);
void remove_global_function(const std::string& name);

/// Calls a function. Raises: Error(kRuntime) with TVM's own words behind `what`.
Value call(const char* what, const TVMFFIAny& function, const TVMFFIAny* args, std::size_t n_args);
inline Value call(const char* what, const Value& function, std::initializer_list<TVMFFIAny> args) {
  return call(what, function.any(), args.begin(), args.size());
}
/// Calls a function of the global table. Raises: Error(kRuntime), also if there is no such function.
Value call_global(const char* name, std::initializer_list<TVMFFIAny> args);

/// The error that a C function has left behind, as text.
std::string raised_error();

}  // namespace melt::mlc
