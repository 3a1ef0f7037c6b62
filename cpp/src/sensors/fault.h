// SPDX-License-Identifier: Apache-2.0
// Why a reading failed, carried in the reading itself: a NaN whose payload is the reason. So a source says why without
// a second array, an allocation or a lock, and whoever only asks isnan() is right too.
#pragma once

#include <cstdint>

namespace melt {

/// Values appear in no file; names do (metadata, `sensors.faults`).
enum class ReadingFault : std::uint8_t {
  kOk = 0,
  kUnknown = 1,     ///< a NaN that is not ours
  kVanished = 2,    ///< the file or its driver has gone
  kDenied = 3,      ///< no longer permitted
  kFailed = 4,      ///< the driver answered with another error
  kGarbage = 5,     ///< not a number
  kImpossible = 6,  ///< a number that nothing of its kind can have
  kReset = 7,       ///< a counter that fell, and not because it wrapped
  kNotNew = 8,      ///< the sensor has taken no new value since; no fault
  kFrozen = 9,      ///< stood still although it used to move; the readings are kept
  kJump = 10,       ///< far from its neighbours; the reading is kept
};

/// A NaN that says `fault`.
double fault_value(ReadingFault fault) noexcept;
/// What a reading says; kOk for a number.
ReadingFault fault_of(double value) noexcept;
/// As it stands in the metadata: "vanished", "denied", ...
const char* fault_name(ReadingFault fault) noexcept;
/// What an errno of open() or read() means for a sensor.
ReadingFault fault_of_errno(int error) noexcept;

/// `value`, or kImpossible if it is not from `low` to `high`. Faults pass through.
double checked(double value, double low, double high) noexcept;

}  // namespace melt
