// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <cstring>
#include <string>

#include "melt/recorder.h"

namespace melt {
namespace {

void put(melt_stamp_ring& ring, std::uint64_t ticks, std::uint32_t node) {
  if (ring.count == ring.capacity) {
    ++ring.dropped;
  } else {
    ring.stamps[ring.count++] = {ticks, node, node};
  }
}

void graph(OpRecorder& recorder, std::uint64_t begin, std::uint32_t groups, unsigned threads = 1) {
  recorder.graph_begin(0);
  for (unsigned thread = 0; thread < threads; ++thread) {
    recorder.rings()[thread].thread_begin = begin;
    for (std::uint32_t i = 0; i < groups; ++i)
      put(recorder.rings()[thread], begin + i + 1, i);
  }
  recorder.graph_end(threads, begin, begin + groups + 1, false);
}

TEST_CASE("graphs lie in the log as they were stamped, thread after thread") {
  OpRecorder recorder(2, {});
  recorder.begin_run(2, 3);
  recorder.set_token(7);
  graph(recorder, 100, 3, 2);
  REQUIRE(recorder.graphs().size() == 1);
  const LoggedGraph& logged = recorder.graphs()[0];
  CHECK(logged.token == 7);
  CHECK(logged.n_groups == 3);
  CHECK(logged.n_dropped == 0);
  const melt_stamp* stamps = recorder.stamps(logged);
  CHECK(stamps[0].ticks == 100);
  CHECK(stamps[0].first_node == 3);
  CHECK(stamps[3].ticks == 103);
  CHECK(stamps[4].first_node == 3);  // head of thread 1
  CHECK(stamps[7].first_node == 2);
}

TEST_CASE("a full ring drops ops and counts them") {
  OpRecorder recorder(1, {4, 1 << 20});
  recorder.begin_run(1, 10);
  graph(recorder, 0, 10);
  CHECK(recorder.graphs()[0].n_groups == 10);
  CHECK(recorder.graphs()[0].n_dropped == 6);
}

TEST_CASE("a full log drops whole graphs and counts their ops") {
  OpRecorder recorder(1, {64, 12 * sizeof(melt_stamp)});
  recorder.begin_run(3, 10);
  graph(recorder, 0, 10);
  graph(recorder, 100, 10);
  CHECK(recorder.graphs()[0].n_dropped == 0);
  CHECK(recorder.graphs()[1].offset == kNoStamps);
  CHECK(recorder.graphs()[1].n_groups == 10);
  CHECK(recorder.graphs()[1].n_dropped == 10);
}

TEST_CASE("more graphs than were reserved are counted, not recorded") {
  OpRecorder recorder(1, {});
  recorder.begin_run(1, 1);
  for (int i = 0; i < 4; ++i)
    graph(recorder, 0, 1);
  CHECK(recorder.graphs().size() + recorder.graphs_lost() == 4);
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
