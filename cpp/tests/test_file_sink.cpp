// SPDX-License-Identifier: Apache-2.0
// The file that a trace goes to: when it is made and replaced, who may write it, and what happens when it cannot be.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "melt/error.h"
#include "melt/trace_reader.h"
#include "melt/trace_writer.h"
#include "scratch_dir.h"
#include "sync_log.h"

using namespace melt;

TEST_CASE("a file holds the same bytes as memory") {
  const melt_test::ScratchDir scratch;
  const std::string path = scratch.path() + "/x.melt";
  std::ofstream(path) << "an older file that is longer than nothing";
  {
    const auto sink = make_file_sink(path);
    CHECK(std::ifstream(path).peek() == 'a');  // there is nothing yet to put in its place
    TraceWriter writer(*sink, FileHeader{});
    writer.write_metadata(R"({"model": "x"})");
    writer.write(ChunkKind::kTokens, std::vector<TokenRecord>(100000));
    writer.write(ChunkKind::kTokens, std::vector<TokenRecord>(1));
  }  // the destructor writes what is left
  std::ifstream file(path, std::ios::binary);
  const std::vector<std::uint8_t> bytes{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  const TraceContents trace = read_trace(bytes.data(), bytes.size());
  CHECK(records_of<TokenRecord>(trace, ChunkKind::kTokens).size() == 100001);
  CHECK_FALSE(trace.complete);
}

TEST_CASE("an older trace stays until there is something in its place, and then for who has it open") {
  const melt_test::ScratchDir scratch;
  const std::string path = scratch.path() + "/x.melt", fresh = scratch.path() + "/fresh.melt";
  std::ofstream(path) << "older";
  const auto first_word = [&](std::istream& file) {
    std::string word;
    file.clear();
    file.seekg(0);
    file >> word;
    return word.substr(0, 5);
  };
  {
    const auto sink = make_file_sink(path), fresh_sink = make_file_sink(fresh);
    TraceWriter writer(*sink, FileHeader{});
    CHECK(std::ifstream(fresh).good());
  }
  std::ifstream reader(path);
  CHECK(first_word(reader) == "older");
  CHECK_FALSE(std::ifstream(fresh).good());  // of a file that held nothing, nothing is left
  const auto sink = make_file_sink(path);
  TraceWriter(*sink, FileHeader{}).flush();
  CHECK(first_word(reader) == "older");
  std::ifstream replaced(path);
  CHECK(first_word(replaced) != "older");
}

TEST_CASE("two sinks do not share a file, and a pipe is none") {
  const melt_test::ScratchDir scratch;
  const std::string path = scratch.path() + "/x.melt", pipe = scratch.path() + "/pipe";
  std::ofstream(path) << "older";
  {
    const auto sink = make_file_sink(path);
    CHECK_THROWS_WITH_AS(make_file_sink(path), doctest::Contains("another run is writing it"), Error);
    sink->write("newer", 5);
    sink->flush();
    CHECK_THROWS_WITH_AS(make_file_sink(path), doctest::Contains("another run is writing it"), Error);
  }
  CHECK_NOTHROW(make_file_sink(path));
  REQUIRE(mkfifo(pipe.c_str(), 0600) == 0);
  CHECK_THROWS_AS(make_file_sink(pipe), Error);  // nobody reads it
  const int reader = ::open(pipe.c_str(), O_RDONLY | O_NONBLOCK);
  CHECK_THROWS_WITH_AS(make_file_sink(pipe), doctest::Contains("it is a pipe"), Error);
  ::close(reader);
}

#if defined(__linux__)
TEST_CASE("a flush to the disk waits for the disk, and says if that refuses; another flush does not ask it") {
  const melt_test::ScratchDir scratch;
  melt_test::SyncLog log;
  const std::string path = scratch.path() + "/x.melt";
  const std::vector<TokenRecord> more_than_a_buffer(10000);
  {
    const auto sink = make_file_sink(path);
    TraceWriter(*sink, FileHeader{}).finish();
    CHECK(log.paths().empty());
  }
  const auto sink = make_file_sink(path, Flush::kToDisk);
  CHECK(log.paths() == std::vector<std::string>{scratch.path()});  // the file's name
  TraceWriter writer(*sink, FileHeader{});
  writer.write(ChunkKind::kTokens, more_than_a_buffer);
  CHECK(log.count(path) == 0);
  writer.flush();
  CHECK(log.count(path) == 1);
  log.fail_with(EINVAL);  // what has no disk, as a pipe
  writer.flush();
  log.fail_with(EIO);
  CHECK_THROWS_WITH_AS(writer.flush(), doctest::Contains("Input/output error"), Error);
  log.fail_with(0);
  CHECK_THROWS_AS(writer.finish(), Error);
  CHECK_THROWS_WITH_AS(make_file_sink(scratch.path() + "/no/x.melt", Flush::kToDisk),
                       doctest::Contains("No such file or directory"), Error);
}
#endif

TEST_CASE("a path that cannot be written fails at once, a full disk with the bytes written") {
  CHECK_THROWS_WITH_AS(make_file_sink("/tmp/no/such/directory/x.melt"), doctest::Contains("No such file or directory"),
                       Error);
  CHECK_THROWS_WITH_AS(make_file_sink("/tmp"), doctest::Contains("Is a directory"), Error);
  const auto sink = make_file_sink("/dev/full");
  TraceWriter writer(*sink, FileHeader{});
  const std::vector<TokenRecord> many(10000);
  CHECK_THROWS_WITH_AS(writer.write(ChunkKind::kTokens, many), doctest::Contains("after 0 bytes: No space"), Error);
  CHECK_THROWS_WITH_AS(writer.finish(), doctest::Contains("stay readable"), Error);
}
