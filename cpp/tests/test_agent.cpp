// SPDX-License-Identifier: Apache-2.0
// The agent: its answers, its files, its runs. The synthetic runtime measures, in processes as on a device.
#include <doctest/doctest.h>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <fstream>
#include <functional>
#include <iterator>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "json_value.h"
#include "melt/error.h"
#include "melt/trace_reader.h"
#include "process.h"
#include "scratch_dir.h"
#include "server.h"
#include "sync_log.h"

using namespace melt;
using namespace melt::agent;

namespace {

constexpr const char* kShortRun =
    R"({"model": "layers=2,op_ns=20000", "runtime": "synthetic", "prompt": "Hello", "max_tokens": 3, "repeats": 2,
        "n_threads": 1, "overhead_budget_s": 0})";
// Simulated time passes at once; real time passes by the number of repetitions.
constexpr const char* kEndlessRun =
    R"({"model": "layers=8,op_ns=20000", "runtime": "synthetic", "prompt": "Hello", "max_tokens": 1000,
        "repeats": 2000000, "n_threads": 1, "n_ctx": 2000, "overhead_budget_s": 0, "levels": ["tokens"]})";

/// A work directory with an agent, as one host sees it.
struct Agent {
  melt_test::ScratchDir scratch;
  WorkDir work{scratch.path() + "/work"};
  Server server{work};

  JsonValue ask(std::string line) {
    for (std::size_t at; (at = line.find('\n')) != std::string::npos;)
      line[at] = ' ';
    const std::string reply = server.answer(line);
    CHECK(reply.find('\n') == std::string::npos);
    return parse_json(reply);
  }

  JsonValue good(const std::string& line) {
    JsonValue reply = ask(line);
    CAPTURE(reply.str());
    REQUIRE(reply.find("ok")->as_bool("ok"));
    return reply;
  }

  /// The kind of the error.
  std::string bad(const std::string& line) {
    const JsonValue reply = ask(line);
    CAPTURE(reply.str());
    REQUIRE_FALSE(reply.find("ok")->as_bool("ok"));
    CHECK_FALSE(reply.find("error")->find("message")->as_string("message").empty());
    return reply.find("error")->find("kind")->as_string("kind");
  }

  JsonValue start(const std::string& run, const char* request) {
    return good(R"({"op": "start", "run": ")" + run + R"(", "request": )" + request + "}");
  }

  std::string state(const std::string& run) {
    return good(R"({"op": "status", "run": ")" + run + "\"}").find("state")->as_string("state");
  }

  /// Waits for a state that is not queued or running.
  JsonValue wait(const std::string& run) {
    for (int i = 0; i < 6000; ++i) {
      JsonValue status = good(R"({"op": "status", "run": ")" + run + "\"}");
      const std::string state = status.find("state")->as_string("state");
      if (state != "queued" && state != "running")
        return status;
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    FAIL("the run does not end");
    return {};
  }

  TraceContents trace(const std::string& run, std::vector<std::uint8_t>& bytes) {
    std::ifstream file(work.path() + "/runs/" + run + "/trace.melt", std::ios::binary);
    bytes.assign(std::istreambuf_iterator<char>(file), {});
    return read_trace(bytes.data(), bytes.size());
  }

  void put(const std::string& name, const std::string& text) {
    std::ofstream(work.path() + "/" + name, std::ios::binary) << text;
  }
};

std::string text_of(const JsonValue& object, const char* key) {
  const JsonValue* value = object.find(key);
  return value == nullptr ? "(none)" : value->as_string(key);
}

#if defined(__linux__)
/// The fourth field of /proc/PID/stat; the second one, in parentheses, may contain anything.
::pid_t parent_of(::pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
  std::string stat{std::istreambuf_iterator<char>(file), {}};
  std::istringstream fields(stat.substr(stat.rfind(')') + 1));
  std::string state;
  ::pid_t parent = 0;
  fields >> state >> parent;
  return parent;
}
#endif

bool eventually(const std::function<bool()>& holds) {
  for (int i = 0; i < 3000; ++i) {
    if (holds())
      return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return false;
}

}  // namespace

TEST_CASE("agent: the id comes back as it was, whatever the line") {
  Agent agent;
  CHECK(agent.ask(R"({"id": 7, "op": "clock"})").find("id")->as_integer("id", 7, 7) == 7);
  CHECK(text_of(agent.ask(R"({"id": "a\"b", "op": "clock"})"), "id") == "a\"b");
  CHECK(agent.ask(R"({"id": {"a": 1}, "op": "clock"})").find("id") == nullptr);
  CHECK(agent.bad("not json") == "InvalidArgumentError");
  CHECK(agent.bad("[]") == "InvalidArgumentError");
  CHECK(agent.bad("{}") == "InvalidArgumentError");
  CHECK(agent.bad(R"({"op": "bogus"})") == "InvalidArgumentError");
  CHECK(agent.bad(R"({"op": "clock", "extra": 1})") == "InvalidArgumentError");
  CHECK(agent.bad(R"({"op": 3})") == "InvalidArgumentError");
}

TEST_CASE("agent: hello and clock describe this machine") {
  Agent agent;
  const JsonValue hello = agent.good(R"({"op": "hello", "protocol": 99, "host": "h"})");
  CHECK(hello.find("protocol")->as_integer("protocol", 1, 1) == 1);
  CHECK(hello.find("page_size")->as_integer("page_size", 4096, 1 << 20) % 4096 == 0);
  CHECK(hello.find("free_bytes")->as_number("free_bytes") > 0);
  CHECK(text_of(hello, "work") == agent.work.path());
  CHECK(hello.find("runtimes")->as_array("runtimes").size() >= 1);
  const JsonValue first = agent.good(R"({"op": "clock"})"), second = agent.good(R"({"op": "clock"})");
  CHECK(second.find("steady_ns")->as_integer("ns", 0, INT64_MAX) >
        first.find("steady_ns")->as_integer("ns", 0, INT64_MAX));
}

TEST_CASE("agent: a run is measured in its own process and leaves a whole trace") {
  Agent agent;
  const JsonValue started = agent.start("r1", kShortRun);
  const JsonValue status = agent.wait("r1");
  CAPTURE(status.str());
  REQUIRE(text_of(status, "state") == "done");
  CHECK(status.find("pid")->str() == started.find("pid")->str());
  CHECK(status.find("repetition")->as_integer("n", 3, 3) == 3);
  CHECK(status.find("tokens_done")->as_integer("n", 9, 9) == 9);
  CHECK(status.find("output_ids")->as_array("ids").size() == 3);
  CHECK(status.find("peak_rss_bytes")->as_number("peak") > 0);
  std::vector<std::uint8_t> bytes;
  const TraceContents trace = agent.trace("r1", bytes);
  CHECK(trace.complete);
  CHECK(trace.warnings.empty());
  CHECK(records_of<RunRecord>(trace, ChunkKind::kRuns).size() == 3);
  const JsonValue hash = agent.good(R"({"op": "hash", "path": "runs/r1/trace.melt"})");
  CHECK(text_of(status, "trace_sha256") == text_of(hash, "sha256"));
  CHECK(status.find("trace_bytes")->as_number("bytes") == static_cast<double>(bytes.size()));
  CHECK(agent.good(R"({"op": "runs"})").find("runs")->as_array("runs").size() == 1);
  CHECK(agent.bad(R"({"op": "start", "run": "r1", "request": )" + std::string(kShortRun) + "}") ==
        "InvalidArgumentError");
  CHECK(agent.good(R"({"op": "delete", "run": "r1"})").find("deleted")->as_bool("deleted"));
  CHECK_FALSE(agent.good(R"({"op": "delete", "run": "r1"})").find("deleted")->as_bool("deleted"));
  CHECK(agent.bad(R"({"op": "status", "run": "r1"})") == "InvalidArgumentError");
}

TEST_CASE("agent: a request that cannot be leaves nothing behind") {
  Agent agent;
  for (const char* request : {R"({})", R"({"model": "../x.gguf"})", R"({"model": "/etc/passwd"})",
                              R"({"model": "no-such.gguf"})", R"({"model": "x", "bogus": 1})", "[]", "7"}) {
    CAPTURE(request);
    CHECK(agent.bad(R"({"op": "start", "run": "r", "request": )" + std::string(request) + "}") ==
          "InvalidArgumentError");
  }
  for (const char* run : {"", ".", "..", "-x", ".x", "a/b", "a b", "a\\u0000b", "a;b", "$(id)", "a\\nb"}) {
    CAPTURE(run);
    CHECK(agent.bad(std::string(R"({"op": "start", "run": ")") + run + R"(", "request": )" + kShortRun + "}") ==
          "InvalidArgumentError");
  }
  CHECK(agent.good(R"({"op": "runs"})").find("runs")->as_array("runs").empty());
}

TEST_CASE("agent: a model that fails, and one that is no model, fail the run with a reason") {
  Agent agent;
  agent.start("bad", R"({"model": "layers=nonsense", "runtime": "synthetic"})");
  const JsonValue status = agent.wait("bad");
  CHECK(text_of(status, "state") == "failed");
  CHECK(text_of(*status.find("error"), "kind") == "ModelError");
  CHECK(agent.bad(R"({"op": "inspect", "model": "runs/bad/status.json"})") == "ModelError");
}

TEST_CASE("agent: cancel ends a run between two ops, with its trace complete; force kills it") {
  Agent agent;
  agent.start("c", kEndlessRun);
  CHECK(agent.bad(R"({"op": "delete", "run": "c"})") == "BusyError");
  CHECK(agent.bad(R"({"op": "start", "run": "d", "request": )" + std::string(kShortRun) + "}") == "DeviceBusyError");
  CHECK(agent.good(R"({"op": "cancel", "run": "c"})").find("signalled")->as_bool("signalled"));
  const JsonValue cancelled = agent.wait("c");
  CHECK(text_of(cancelled, "state") == "cancelled");
  std::vector<std::uint8_t> bytes;
  CHECK(agent.trace("c", bytes).complete);
  CHECK_FALSE(agent.good(R"({"op": "cancel", "run": "c"})").find("signalled")->as_bool("signalled"));

  agent.start("k", kEndlessRun);
  REQUIRE(eventually([&] { return agent.good(R"({"op": "status", "run": "k"})").find("tokens_done")->str() != "0"; }));
  CHECK(agent.good(R"({"op": "cancel", "run": "k", "force": true})").find("signalled")->as_bool("signalled"));
  const JsonValue killed = agent.wait("k");
  CHECK(text_of(killed, "state") == "failed");
  CHECK(killed.find("error")->find("signal")->as_integer("signal", SIGKILL, SIGKILL) == SIGKILL);
  const TraceContents trace = agent.trace("k", bytes);
  CHECK_FALSE(trace.complete);
  CHECK_FALSE(records_of<RunRecord>(trace, ChunkKind::kRuns).empty());  // what was flushed before is kept
}

TEST_CASE("agent: a hang-up does not reach a run") {
  Agent agent;
  const JsonValue started = agent.start("h", kEndlessRun);
  const auto pid = static_cast<::pid_t>(started.find("pid")->as_integer("pid", 2, INT32_MAX));
  CHECK(::getsid(pid) != ::getsid(0));
  ::kill(pid, SIGHUP);
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  CHECK(agent.state("h") == "running");
  agent.good(R"({"op": "cancel", "run": "h"})");
  CHECK(text_of(agent.wait("h"), "state") == "cancelled");
}

TEST_CASE("agent: a run whose keeper was killed too is lost, and says so; one whose keeper alone was killed is not") {
  Agent agent;
  const auto start = [&](const char* run) {
    return static_cast<::pid_t>(agent.start(run, kEndlessRun).find("pid")->as_integer("pid", 2, INT32_MAX));
  };
  const ::pid_t lost = start("lost");
  ::kill(-::getpgid(lost), SIGKILL);
  const JsonValue status = agent.wait("lost");
  CHECK(text_of(status, "state") == "lost");
  CHECK(text_of(*status.find("error"), "message").find("ended from outside") != std::string::npos);

#if defined(__linux__)
  const ::pid_t orphan = start("orphan");
  const ::pid_t keeper = parent_of(orphan);
  REQUIRE(keeper > 1);
  ::kill(keeper, SIGKILL);
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  CHECK(agent.state("orphan") == "running");
  agent.good(R"({"op": "cancel", "run": "orphan"})");
  const JsonValue ended = agent.wait("orphan");
  CHECK(text_of(ended, "state") == "cancelled");
  CHECK(text_of(ended, "trace_sha256").size() == 64);
#endif
}

TEST_CASE("agent: a run that was going on when the device restarted is lost") {
  Agent agent;
  agent.start("r", kShortRun);
  agent.wait("r");
  agent.put("runs/r/status.json", R"({"run": "r", "state": "running", "pid": 1, "boot_id": "another"})");
  const JsonValue status = agent.wait("r");
  CHECK(text_of(status, "state") == "lost");
  CHECK(text_of(*status.find("error"), "message").find("restarted") != std::string::npos);
  CHECK_FALSE(agent.good(R"({"op": "cancel", "run": "r"})").find("signalled")->as_bool("signalled"));
  // Its status without content, as a loss of power may leave it; what the trace holds is still to be had.
  for (const char* left : {"", "{\"run\": \"r\", \"sta", "\x01\x02"}) {
    agent.put("runs/r/status.json", left);
    const JsonValue damaged = agent.wait("r");
    CHECK(text_of(damaged, "state") == "lost");
    CHECK(text_of(*damaged.find("error"), "message").find("restarted") != std::string::npos);
    CHECK(damaged.find("trace_bytes")->as_number("bytes") > 0);
    CHECK_FALSE(agent.good(R"({"op": "cancel", "run": "r"})").find("signalled")->as_bool("signalled"));
  }
}

#if defined(__linux__)
TEST_CASE("agent: each repetition of a run reaches the disk when it is over, the final status last") {
  melt_test::SyncLog log;
  Agent agent;
  agent.start("r", kShortRun);
  REQUIRE(text_of(agent.wait("r"), "state") == "done");
  const std::string folder = agent.work.path() + "/runs/r";
  CHECK(log.count(folder + "/trace.melt") == 4);  // one of warm-up, two measured, the end of the trace
  CHECK(log.count(folder) >= 2);                  // the trace's name, the status's
  REQUIRE(eventually([&] { return log.last() == folder; }));
}
#endif

TEST_CASE("agent: a lease keeps other hosts from changing anything, not from looking") {
  Agent agent;
  agent.good(R"({"op": "lease", "host": "a", "ttl_s": 60})");
  agent.good(R"({"op": "lease", "host": "a", "ttl_s": 60})");
  const JsonValue refused = agent.ask(R"({"op": "lease", "host": "b", "ttl_s": 60})");
  CHECK(text_of(*refused.find("error"), "kind") == "DeviceBusyError");
  CHECK(text_of(*refused.find("error"), "holder") == "a");
  CHECK(refused.find("error")->find("transient")->as_bool("transient"));
  for (const char* op : {R"("start", "run": "x", "request": {})", R"("cancel", "run": "x")", R"("delete", "run": "x")",
                         R"("remove", "path": "x")"})
    CHECK(agent.bad(std::string(R"({"host": "b", "op": )") + op + "}") == "DeviceBusyError");
  agent.good(R"({"host": "b", "op": "files"})");
  CHECK_FALSE(agent.good(R"({"op": "release", "host": "b"})").find("released")->as_bool("released"));
  CHECK(agent.good(R"({"op": "release", "host": "a"})").find("released")->as_bool("released"));
  agent.good(R"({"op": "lease", "host": "b", "ttl_s": 60})");
  // Of another start of the system, expired, or damaged: nobody's.
  for (const char* lease : {R"({"host": "b", "expires_ns": 9223372036854775807, "boot_id": "another"})", "{", "[]"}) {
    agent.put("lease.json", lease);
    agent.good(R"({"op": "lease", "host": "a", "ttl_s": 1})");
    agent.good(R"({"op": "release", "host": "a"})");
  }
  for (const char* bad : {R"("host": "", "ttl_s": 9)", R"("host": "a", "ttl_s": 0)", R"("host": "a")",
                          R"("host": "a", "ttl_s": 90000)", R"("ttl_s": 9)"})
    CHECK(agent.bad(std::string(R"({"op": "lease", )") + bad + "}") == "InvalidArgumentError");
}

TEST_CASE("agent: paths stay in the work directory") {
  Agent agent;
  agent.put("a.txt", "abc");
  ::mkdir((agent.work.path() + "/sub").c_str(), 0700);
  agent.put("sub/b.txt", "b");
  std::ofstream(agent.scratch.path() + "/outside.txt") << "secret";
  REQUIRE(::symlink("../outside.txt", (agent.work.path() + "/link").c_str()) == 0);
  REQUIRE(::symlink("..", (agent.work.path() + "/up").c_str()) == 0);
  CHECK(text_of(agent.good(R"({"op": "hash", "path": "a.txt"})"), "sha256").substr(0, 8) == "ba7816bf");
  CHECK(agent.good(R"({"op": "hash", "path": "sub/b.txt"})").find("bytes")->as_integer("n", 1, 1) == 1);
  for (const char* path :
       {"", "/", "/etc/passwd", "..", "../outside.txt", "sub/../../outside.txt", "./a.txt", "sub//b.txt", "sub/",
        "link", "up/outside.txt", "a.txt/x", "no/such", "a\\u0000b", "sub", "a/b/c/d/e/f/g/h/i/j"}) {
    CAPTURE(path);
    CHECK(agent.bad(std::string(R"({"op": "hash", "path": ")") + path + "\"}") == "InvalidArgumentError");
    if (std::string(path) != "link" && std::string(path) != "no/such" && std::string(path) != "sub")
      CHECK(agent.bad(std::string(R"({"op": "remove", "path": ")") + path + "\"}") == "InvalidArgumentError");
  }
  CHECK(agent.bad(R"({"op": "remove", "path": "sub"})") == "StorageError");  // not empty
  const JsonValue files = agent.good(R"({"op": "files"})");
  std::string paths;
  for (const JsonValue& file : files.find("files")->as_array("files"))
    paths += text_of(file, "path") + " ";
  CHECK(paths == "a.txt sub/b.txt ");
  CHECK(agent.good(R"({"op": "remove", "path": "link"})").find("removed")->as_bool("removed"));  // the link itself
  CHECK(::access((agent.scratch.path() + "/outside.txt").c_str(), F_OK) == 0);
  CHECK(agent.good(R"({"op": "remove", "path": "sub/b.txt"})").find("removed")->as_bool("removed"));
  CHECK(agent.good(R"({"op": "remove", "path": "sub"})").find("removed")->as_bool("removed"));
  CHECK_FALSE(agent.good(R"({"op": "remove", "path": "sub"})").find("removed")->as_bool("removed"));
}

TEST_CASE("agent: lines of any length, and none without its end") {
  Agent agent;
  Pipe in, out;
  std::thread serving([&] {
    agent.server.serve(in.read_end.get(), out.write_end.get());
    out.write_end.close();
  });
  std::string replies;
  std::thread reading([&] { replies = read_to_end(out.read_end.get(), 1 << 20); });
  write_text(in.write_end.get(), R"({"id": 1, "op": "clock"})"
                                 "\n" +
                                     std::string(3 << 20, 'x') + "\n\n");
  write_text(in.write_end.get(), R"({"id": 2, "op": "clock"})"
                                 "\n"
                                 R"({"id": 3, "op": "clock"})");
  in.write_end.close();
  serving.join();
  reading.join();
  std::vector<JsonValue> lines;
  for (std::size_t begin = 0, end; (end = replies.find('\n', begin)) != std::string::npos; begin = end + 1)
    lines.push_back(parse_json(replies.substr(begin, end - begin)));
  REQUIRE(lines.size() == 4);
  CHECK(lines[0].find("id")->str() == "1");
  CHECK(text_of(*lines[1].find("error"), "message").find("longer than") != std::string::npos);
  CHECK_FALSE(lines[2].find("ok")->as_bool("ok"));
  CHECK(lines[3].find("id")->str() == "2");
}

TEST_CASE("agent: work in a child survives its death and gives its error") {
  CHECK(in_child([] { return std::string("fine"); }) == "fine");
  CHECK_THROWS_WITH_AS(in_child([]() -> std::string { throw Error(ErrorKind::kIo, "why"); }), "why", Error);
  std::string message;
  try {
    in_child([]() -> std::string {
      ::signal(SIGILL, SIG_DFL);
      ::raise(SIGILL);
      return "";
    });
  } catch (const Error& error) {
    message = error.what();
  }
  CHECK(message.find("an instruction that this CPU does not have") != std::string::npos);
}

TEST_CASE("agent: the core's sensors are listed, and their absence has a reason") {
  Agent agent;
  const JsonValue reply = agent.good(R"({"op": "sensors"})");
  const auto& sensors = reply.find("sensors")->as_array("sensors");
  CHECK(sensors.size() >= 3);
  for (const JsonValue& sensor : sensors) {
    CHECK_FALSE(text_of(sensor, "name").empty());
    CHECK((sensor.find("present")->as_bool("present") || !sensor.find("absent")->keys().empty()));
  }
}
