// SPDX-License-Identifier: Apache-2.0
// The agent as an app has it: requests are files, runs are threads of its own.
#include <doctest/doctest.h>

#include <fstream>
#include <iterator>
#include <string>
#include <thread>

#include "json_value.h"
#include "mailbox.h"
#include "melt/agent.h"
#include "melt/trace_reader.h"
#include "scratch_dir.h"

using namespace melt;
using namespace melt::agent;

namespace {

struct App {
  melt_test::ScratchDir scratch;
  WorkDir work{scratch.path() + "/Documents"};
  Server server{work, Hosting::kThreads};
  int n = 0;

  App() { work.make_directory(kMailbox); }

  void put(const std::string& name, const std::string& text) {
    std::ofstream(work.path() + "/mailbox/" + name, std::ios::binary) << text;
  }

  JsonValue ask(const std::string& line) {
    const std::string name = "s." + std::to_string(++n);
    put(name + ".in", line + "\n");
    REQUIRE(answer_mailbox(work, server));
    CHECK_FALSE(work.exists("mailbox/" + name + ".in"));
    return parse_json(work.read("mailbox/" + name + ".out", 1 << 20));
  }

  std::string wait(const std::string& run) {
    for (int i = 0; i < 3000; ++i) {
      const JsonValue status = ask(R"({"op": "status", "run": ")" + run + "\"}");
      const std::string state = status.find("state")->as_string("state");
      if (state != "queued" && state != "running")
        return state;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return "never ends";
  }
};

std::string start_line(const std::string& run, int repeats) {
  return R"({"op": "start", "run": ")" + run +
         R"(", "request": {"model": "layers=2,op_ns=20000", "runtime": "synthetic", "prompt": "Hi", "max_tokens": 3,
             "n_threads": 1, "overhead_budget_s": 0, "levels": ["tokens"], "repeats": )" +
         std::to_string(repeats) + "}}";
}

std::string one_line(std::string text) {
  for (char& c : text)
    c = c == '\n' ? ' ' : c;
  return text;
}

}  // namespace

TEST_CASE("agent as an app: a request that is still being written is left until it is whole") {
  App app;
  app.put("s.1.in", R"({"id": 1, "op": "clo)");
  CHECK_FALSE(answer_mailbox(app.work, app.server));
  app.put("s.1.in", "{\"id\": 1, \"op\": \"clock\"}\n");
  CHECK(answer_mailbox(app.work, app.server));
  CHECK(parse_json(app.work.read("mailbox/s.1.out", 4096)).find("steady_ns") != nullptr);
}

TEST_CASE("agent as an app: what is no request harms nothing, and answers do not pile up") {
  App app;
  app.put("readme", "x\n");
  app.put(".hidden.in", "x\n");
  app.put("long.1.in", std::string((1 << 20) + 100, 'x'));
  CHECK_FALSE(answer_mailbox(app.work, app.server));
  CHECK_FALSE(app.work.exists("mailbox/long.1.in"));
  CHECK_FALSE(app.ask("no json").find("ok")->as_bool("ok"));
  app.ask(R"({"op": "clock"})");
  app.ask(R"({"op": "hello", "host": "a"})");
  CHECK_FALSE(app.work.exists("mailbox/s.2.out"));
  CHECK(app.work.exists("mailbox/s.3.out"));
}

TEST_CASE("agent as an app: a run is a thread, leaves a whole trace, and is cancelled without a signal") {
  App app;
  const std::string endless = one_line(start_line("long", 2000000));
  REQUIRE(app.ask(one_line(start_line("short", 2))).find("ok")->as_bool("ok"));
  CHECK(app.wait("short") == "done");
  std::ifstream file(app.work.path() + "/runs/short/trace.melt", std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(file), {}};
  const TraceContents trace = read_trace(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
  CHECK(trace.complete);
  REQUIRE(app.ask(endless).find("ok")->as_bool("ok"));
  const JsonValue second = app.ask(one_line(start_line("other", 1)));
  CHECK(second.find("error")->find("kind")->as_string("kind") == "DeviceBusyError");
  CHECK(app.ask(R"({"op": "cancel", "run": "long"})").find("signalled")->as_bool("signalled"));
  CHECK(app.wait("long") == "cancelled");
  REQUIRE(app.ask(one_line(start_line("after", 1))).find("ok")->as_bool("ok"));  // it is not cancelled too
  CHECK(app.wait("after") == "done");
  CHECK(app.ask(R"({"op": "delete", "run": "short"})").find("deleted")->as_bool("deleted"));
}

TEST_CASE("agent as an app: what the app tells of its device while a run goes on is in the trace") {
  App app;
  melt_set_thermal_state(1);
  melt_set_battery(0.5, 1);
  REQUIRE(app.ask(one_line(R"({"op": "start", "run": "hot", "request": {"model": "layers=2,op_ns=100000,clock=host",
      "runtime": "synthetic", "prompt": "Hi", "max_tokens": 100, "ignore_eos": true, "n_threads": 1, "repeats": 20,
      "overhead_budget_s": 0, "levels": ["tokens"], "sensors": ["app"]}})"))
              .find("ok")
              ->as_bool("ok"));
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  melt_set_thermal_state(3);
  REQUIRE(app.wait("hot") == "done");
  melt_set_thermal_state(-1);
  melt_set_battery(-1, 0);
  std::ifstream file(app.work.path() + "/runs/hot/trace.melt", std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(file), {}};
  const TraceContents trace = read_trace(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
  std::vector<double> states;
  for (const ChannelRecord& channel : records_of<ChannelRecord>(trace, ChunkKind::kChannels)) {
    if (std::string(channel.site) != "soc" || std::string(channel.kind) != "throttle")
      continue;
    for (const SampleRecord& sample : records_of<SampleRecord>(trace, ChunkKind::kSamples)) {
      if (sample.channel == channel.channel)
        states.push_back(sample.value);
    }
  }
  REQUIRE(states.size() >= 2);
  CHECK(states.front() == 1.0);
  CHECK(states.back() == 3.0);
}

TEST_CASE("agent as an app: it serves until it is stopped, and says why it cannot") {
  CHECK(std::string(melt_agent_serve(nullptr)).find("NULL") != std::string::npos);
  CHECK(melt_agent_serve("/proc/nowhere/at/all") != nullptr);
  melt_test::ScratchDir scratch;
  const std::string path = scratch.path() + "/Documents";
  std::thread app([&] { CHECK(melt_agent_serve(path.c_str()) == nullptr); });
  const WorkDir work(path);
  for (int i = 0; i < 1000 && !work.exists("runs"); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  std::ofstream(path + "/mailbox/s.1.in") << "{\"op\": \"clock\"}\n";
  for (int i = 0; i < 1000 && !work.exists("mailbox/s.1.out"); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  CHECK(work.exists("mailbox/s.1.out"));
  melt_agent_stop();
  app.join();
}
