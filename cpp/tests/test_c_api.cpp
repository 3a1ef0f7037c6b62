// SPDX-License-Identifier: Apache-2.0
// The C interface: test_c_api.c calls it, and this checks what it left.
#include "test_c_api.h"

#include <doctest/doctest.h>

#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "melt/error.h"
#include "melt/melt.h"
#include "melt/trace_reader.h"
#include "scratch_dir.h"

using namespace melt;

TEST_CASE("C API: load, profile, cancel") {
  const melt_test::ScratchDir scratch;
  const std::string path = scratch.path() + "/t.melt";
  CHECK(melt_test_profile(path.c_str()) == 0);
  std::ifstream file(path, std::ios::binary);
  const std::vector<std::uint8_t> bytes{std::istreambuf_iterator<char>(file), {}};
  CHECK(read_trace(bytes.data(), bytes.size()).complete);  // of the run that was cancelled
}

TEST_CASE("C API: bad use has a status and a text") {
  CHECK(melt_test_refusals() == 0);
}

TEST_CASE("C API: its numbers are those of ErrorKind") {
  CHECK(MELT_INVALID_ARGUMENT == static_cast<int>(ErrorKind::kInvalidArgument));
  CHECK(MELT_MODEL == static_cast<int>(ErrorKind::kModel));
  CHECK(MELT_OUT_OF_MEMORY == static_cast<int>(ErrorKind::kOutOfMemory));
  CHECK(MELT_RUNTIME == static_cast<int>(ErrorKind::kRuntime));
  CHECK(MELT_TRACE == static_cast<int>(ErrorKind::kTrace));
  CHECK(MELT_IO == static_cast<int>(ErrorKind::kIo));
  CHECK(MELT_BUSY == static_cast<int>(ErrorKind::kBusy));
  CHECK(MELT_CANCELLED == static_cast<int>(ErrorKind::kCancelled));
}
