// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <cstring>
#include <string>

#include "melt/recorder.h"

namespace melt {
namespace {

void graph(OpRecorder& recorder, std::uint64_t begin, std::uint32_t groups, unsigned threads = 1) {
  recorder.graph_begin(0);
  for (unsigned thread = 0; thread < threads; ++thread) {
    recorder.thread_stamps()[thread].thread_begin = begin;
    for (std::uint32_t i = 0; i < groups; ++i)
      melt_stamp_group(&recorder.thread_stamps()[thread], begin + i + 1, 0, i, i);
  }
  recorder.graph_end(threads, begin, begin + groups + 1, false);
}

TEST_CASE("a graph lies in each thread's log as the thread stamped it") {
  OpRecorder recorder(2, {});
  recorder.begin_run(2, 3);
  recorder.set_token(7);
  graph(recorder, 100, 2, 2);
  graph(recorder, 200, 3, 2);
  REQUIRE(recorder.graphs().size() == 2);
  const LoggedGraph& logged = recorder.graphs()[1];
  CHECK(logged.token == 7);
  CHECK(logged.n_groups == 3);
  CHECK(logged.n_dropped == 0);
  for (unsigned thread = 0; thread < 2; ++thread) {
    CHECK(recorder.stamps(recorder.graphs()[0], thread)[2].ticks == 102);
    const melt_stamp* stamps = recorder.stamps(logged, thread);
    CHECK(stamps[0].ticks == 200);
    CHECK(stamps[0].first_node == 3);
    CHECK(stamps[1].ticks == 201);
    CHECK(stamps[3].ticks == 203);
    CHECK(stamps[3].first_node == 2);
  }
}

TEST_CASE("threads of an aborted graph stamp different numbers of groups, and the next graph has a place of its own") {
  OpRecorder recorder(2, {});
  recorder.begin_run(2, 8);
  recorder.graph_begin(0);
  for (std::uint32_t i = 0; i < 5; ++i)
    melt_stamp_group(&recorder.thread_stamps()[1], 10 + i, 0, i, i);
  melt_stamp_group(&recorder.thread_stamps()[0], 10, 0, 0, 0);
  recorder.graph_end(2, 0, 20, true);
  graph(recorder, 100, 2, 2);
  const LoggedGraph& aborted = recorder.graphs()[0];
  CHECK(aborted.aborted);
  CHECK(recorder.stamps(aborted, 0)[0].first_node == 1);
  CHECK(recorder.stamps(aborted, 1)[0].first_node == 5);
  for (std::uint32_t i = 0; i < 5; ++i)
    CHECK(recorder.stamps(aborted, 1)[1 + i].ticks == 10 + i);
  CHECK(recorder.stamps(recorder.graphs()[1], 1)[1].ticks == 101);
}

TEST_CASE("a full log drops whole graphs and counts their ops, of all threads") {
  OpRecorder recorder(2, {2 * 16 * sizeof(melt_stamp)});
  recorder.begin_run(3, 10);
  graph(recorder, 0, 10, 2);
  graph(recorder, 100, 10, 2);
  graph(recorder, 200, 3, 2);
  graph(recorder, 300, 1, 2);
  CHECK(recorder.graphs()[0].n_dropped == 0);
  CHECK(recorder.graphs()[1].offset == kNoStamps);
  CHECK(recorder.graphs()[1].n_groups == 10);
  CHECK(recorder.graphs()[1].n_dropped == 20);
  CHECK(recorder.graphs()[2].n_dropped == 0);  // a small one still has room
  CHECK(recorder.stamps(recorder.graphs()[0], 1)[10].ticks == 10);
  CHECK(recorder.stamps(recorder.graphs()[2], 1)[3].ticks == 203);
  CHECK(recorder.lost().n_graphs + recorder.graphs().size() == 4);
}

TEST_CASE("a graph that more threads computed than are recorded is dropped whole") {
  OpRecorder recorder(2, {});
  recorder.begin_run(2, 4);
  graph(recorder, 0, 4, 2);
  recorder.graph_begin(0);
  melt_stamp_group(&recorder.thread_stamps()[0], 0, 0, 0, 0);
  melt_stamp_group(&recorder.thread_stamps()[1], 0, 0, 0, 0);
  recorder.graph_end(3, 100, 110, false);
  CHECK(recorder.graphs()[0].n_dropped == 0);
  CHECK(recorder.graphs()[1].offset == kNoStamps);
  CHECK(recorder.graphs()[1].n_dropped == 2);
}

TEST_CASE("all threads read the counter unless that would take more than its share of the same graph before") {
  OpRecorder recorder(2, {});
  recorder.begin_run(4, 100);
  const auto run = [&](std::uint32_t topology, std::uint64_t took_ticks) {
    recorder.graph_begin(topology);
    for (std::uint32_t i = 0; i < 100; ++i)
      melt_stamp_group(&recorder.thread_stamps()[0], i, 0, i, i);
    recorder.graph_end(1, 0, took_ticks, false);
  };
  CHECK(recorder.can_read_all(0));  // not known yet
  run(0, 1000);
  CHECK_FALSE(recorder.can_read_all(0));
  CHECK(recorder.can_read_all(1));  // another graph
  run(0, std::uint64_t{1} << 40);
  CHECK(recorder.can_read_all(0));
}

TEST_CASE("a log without room for a single stamp drops everything") {
  OpRecorder recorder(2, {1});
  recorder.begin_run(2, 10);
  graph(recorder, 0, 4, 2);
  graph(recorder, 100, 0, 2);
  CHECK(recorder.graphs()[0].n_dropped == 8);
  CHECK(recorder.graphs()[1].offset == kNoStamps);
}

/// A graph of 3 groups on 3 threads, whose counters are read at each boundary, on thread 1 only `n_read` times.
void counted_graph(OpRecorder& recorder, unsigned n_read) {
  recorder.graph_begin(0);
  for (unsigned thread = 0; thread < 3; ++thread) {
    melt_thread_stamps& stamps = recorder.thread_stamps()[thread];
    for (unsigned boundary = 0; boundary <= 3; ++boundary) {
      if (boundary > 0)
        melt_stamp_group(&stamps, boundary, 0, boundary, boundary);
      if (stamps.counters != nullptr && (thread != 1 || boundary < n_read))
        melt_count(stamps.counters);
    }
  }
  recorder.graph_end(3, 0, 4, false);
}

TEST_CASE("counter entries lie beside their thread's stamps; what was not read is zero, whatever was there before") {
  const auto read = [](int file, std::uint64_t* words, std::uint32_t) { words[0] = static_cast<std::uint64_t>(file); };
  OpRecorder recorder(3, {});
  recorder.count_with({{read, 7}, {read, 8}, {}}, 1);
  for (const unsigned n_read : {4u, 1u}) {
    recorder.begin_run(2, 3);
    counted_graph(recorder, n_read);
    counted_graph(recorder, n_read);
    REQUIRE(recorder.graphs().size() == 2);
    for (const LoggedGraph& logged : recorder.graphs()) {
      for (unsigned i = 0; i <= 3; ++i) {
        const std::size_t at = i * recorder.entry_words();
        CHECK(recorder.entries(logged, 0)[at + 1] == 7);
        CHECK(recorder.entries(logged, 1)[at + 1] == (i < n_read ? 8 : 0));
        CHECK((recorder.entries(logged, 1)[at] != 0) == (i < n_read));  // ticks
        CHECK(recorder.entries(logged, 2)[at] == 0);
      }
    }
  }
}

TEST_CASE("more graphs than were reserved are counted, not recorded") {
  OpRecorder recorder(1, {});
  recorder.begin_run(1, 1);
  const std::size_t n_kept = 1;
  for (std::uint32_t i = 0; i < 4; ++i)
    graph(recorder, 0, 1 + i);  // the last three find no place in the list, and the log is full before
  REQUIRE(recorder.graphs().size() == n_kept);
  CHECK(recorder.lost().n_graphs == 3);
  CHECK(recorder.lost().n_groups == 2 + 3 + 4);
  CHECK(recorder.lost().n_records == 2 + 3 + 4);
}

TEST_CASE("text fields are padded with zero bytes and cut between characters") {
  char field[4];
  set_text(field, "ab");
  CHECK(std::memcmp(field, "ab\0\0", 4) == 0);
  set_text(field, "ab\xC3\xA9z");  // the 4 bytes end exactly after é
  CHECK(std::memcmp(field, "ab\xC3\xA9", 4) == 0);
  set_text(field, "abc\xC3\xA9");  // é would be cut in half
  CHECK(std::memcmp(field, "abc\0", 4) == 0);
}

}  // namespace
}  // namespace melt
