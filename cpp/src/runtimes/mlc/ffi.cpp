// SPDX-License-Identifier: Apache-2.0
#include "ffi.h"

#include "melt/error.h"

namespace melt::mlc {
namespace {

std::string text_of(const TVMFFIByteArray& bytes) {
  return std::string(bytes.data, bytes.size);
}

/// The first line, without what TVM's checks put before the message.
std::string first_line(const std::string& text) {
  const std::size_t begin = text.find_first_not_of(" \n");
  return begin == std::string::npos ? "no message" : text.substr(begin, text.find('\n', begin) - begin);
}

}  // namespace

std::string Value::as_string() const {
  if (any_.type_index == kTVMFFISmallStr)
    return text_of(TVMFFISmallBytesGetContentByteArray(&any_));
  return any_.type_index == kTVMFFIStr ? text_of(*TVMFFIBytesGetByteArrayPtr(any_.v_obj)) : "";
}

const DLTensor* Value::as_tensor() const noexcept {
  return tensor_of(any_);
}

TVMFFIAny any_of(std::int64_t value) noexcept {
  TVMFFIAny any{};
  any.type_index = kTVMFFIInt;
  any.v_int64 = value;
  return any;
}

TVMFFIAny any_of_text(const char* text) noexcept {
  TVMFFIAny any{};
  any.type_index = kTVMFFIRawStr;
  any.v_c_str = text;
  return any;
}

Value make_string(const std::string& text) {
  const TVMFFIByteArray bytes{text.data(), text.size()};
  TVMFFIAny any{};
  if (tvm().ffi.make_string(&bytes, &any) != 0)
    throw Error(ErrorKind::kRuntime, "TVM made no string: " + raised_error());
  return Value(any);
}

Value make_shape(std::initializer_list<std::int64_t> extents) {
  std::vector<TVMFFIAny> args;
  for (const std::int64_t extent : extents)
    args.push_back(any_of(extent));
  return call("making a shape", global_function("ffi.Shape").any(), args.data(), args.size());
}

Value make_array(const std::vector<TVMFFIAny>& items) {
  return call("making an array", global_function("ffi.Array").any(), items.data(), items.size());
}

Value global_function(const std::string& name) {
  const TVMFFIByteArray bytes{name.data(), name.size()};
  TVMFFIObjectHandle handle = nullptr;
  TVMFFIAny any{};
  if (tvm().ffi.get_global(&bytes, &handle) == 0 && handle != nullptr) {
    any.type_index = kTVMFFIFunction;
    any.v_obj = static_cast<TVMFFIObject*>(handle);
  }
  return Value(any);
}

void set_global_function(const std::string& name, const TVMFFIAny& function) {
  const TVMFFIByteArray bytes{name.data(), name.size()};
  if (tvm().ffi.set_global(&bytes, function.v_obj, 1) != 0)
    throw Error(ErrorKind::kRuntime, "TVM did not register " + name + ": " + raised_error());
}

void remove_global_function(const std::string& name) {
  call_global("ffi.FunctionRemoveGlobal", {any_of_text(name.c_str())});
}

Value call(const char* what, const TVMFFIAny& function, const TVMFFIAny* args, std::size_t n_args) {
  TVMFFIAny result{};
  const TVMFFIFunctionCell* cell = TVMFFIFunctionGetCellPtr(function.v_obj);
  if (cell->safe_call(function.v_obj, args, static_cast<std::int32_t>(n_args), &result) != 0)
    throw Error(ErrorKind::kRuntime, std::string(what) + " failed in TVM: " + raised_error());
  return Value(result);
}

Value call_global(const char* name, std::initializer_list<TVMFFIAny> args) {
  const Value function = global_function(name);
  if (!function.is_function())
    throw Error(ErrorKind::kRuntime, "this TVM runtime has no function " + std::string(name));
  return call(name, function, args);
}

std::string raised_error() {
  TVMFFIObjectHandle handle = nullptr;
  tvm().ffi.take_error(&handle);
  if (handle == nullptr)
    return "no reason given";
  TVMFFIAny any{};
  any.type_index = kTVMFFIError;
  any.v_obj = static_cast<TVMFFIObject*>(handle);
  const Value owner(any);
  return first_line(text_of(TVMFFIErrorGetCellPtr(handle)->message));
}

}  // namespace melt::mlc
