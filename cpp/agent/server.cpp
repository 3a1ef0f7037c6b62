// SPDX-License-Identifier: Apache-2.0
#include "server.h"

#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <new>

#include "device.h"
#include "inspect.h"
#include "json.h"
#include "melt/error.h"
#include "melt/sensor.h"
#include "process.h"
#include "protocol.h"
#include "text_list.h"

namespace melt::agent {
namespace {

constexpr std::size_t kMaxFiles = 4096;
constexpr std::int64_t kMaxLeaseS = 86400;

const JsonValue& need(const JsonValue& request, const char* field) {
  const JsonValue* value = request.find(field);
  if (value == nullptr)
    throw Error(ErrorKind::kInvalidArgument, std::string("field \"") + field + "\" is missing");
  return *value;
}

std::string need_text(const JsonValue& request, const char* field) {
  return need(request, field).as_string(field);
}

bool flag(const JsonValue& request, const char* field) {
  const JsonValue* value = request.find(field);
  return value != nullptr && value->as_bool(field);
}

std::string failure(const std::string& id, const std::string& error) {
  return JsonObject().add_raw("id", id).add("ok", false).add_raw("error", error).str();
}

std::string failure(const std::string& id, const char* kind, const std::string& message) {
  return failure(id, JsonObject().add("kind", kind).add("message", message).add("transient", false).str());
}

/// `id` and `ok` before the members of an object.
std::string success(const std::string& id, const std::string& members) {
  const std::string head = "{\"id\": " + id + ", \"ok\": true";
  return members == "{}" ? head + "}" : head + ", " + members.substr(1);
}

/// What the asker calls this request; null where that is not to be read.
std::string id_of(const JsonValue& request) {
  const JsonValue* id = request.find("id");
  const bool plain =
      id != nullptr && (id->type() == JsonValue::Type::kNumber || id->type() == JsonValue::Type::kString);
  return plain ? id->str() : "null";
}

}  // namespace

struct Server::Op {
  const char* name;
  const char* fields;  // besides id, op and host; each with a blank on both sides
  bool changes;        // not allowed to other hosts than the lease's
  std::string (Server::*execute)(const Request&);
};

const Server::Op Server::kOps[] = {
    {"hello", " protocol ", false, &Server::hello},   {"clock", " ", false, &Server::clock},
    {"lease", " ttl_s ", false, &Server::lease},      {"release", " ", false, &Server::release},
    {"start", " run request ", true, &Server::start}, {"status", " run ", false, &Server::status},
    {"runs", " ", false, &Server::list_runs},         {"cancel", " run force ", true, &Server::cancel},
    {"delete", " run ", true, &Server::delete_run},   {"files", " hash ", false, &Server::files},
    {"hash", " path ", false, &Server::hash},         {"remove", " path ", true, &Server::remove},
    {"inspect", " model ", false, &Server::inspect},  {"sensors", " ", false, &Server::sensors},
};

std::string Server::execute(const Request& request) {
  if (!request.is_object())
    throw Error(ErrorKind::kInvalidArgument, "a request is a JSON object");
  const std::string name = need_text(request, "op");
  std::string names;
  for (const Op& op : kOps) {
    append_item(names, op.name);
    if (name != op.name)
      continue;
    for (const std::string& key : request.keys()) {
      if (key != "id" && key != "op" && key != "host" &&
          std::string(op.fields).find(" " + key + " ") == std::string::npos)
        throw Error(ErrorKind::kInvalidArgument, "op \"" + name + "\" has no field " + json_string(key));
    }
    if (op.changes)
      leases_.check(host_of(request));
    return (this->*op.execute)(request);
  }
  throw Error(ErrorKind::kInvalidArgument, "unknown op " + json_string(name.substr(0, 100)) + ": there are " + names);
}

std::string Server::answer(const std::string& line) {
  std::string id = "null";
  try {
    const JsonValue request = parse_json(line);
    id = id_of(request);
    return success(id, execute(request));
  } catch (const Error& error) {
    return failure(id, error_class_name(error.kind()), error.what());
  } catch (const DeviceBusy& busy) {
    return failure(id, JsonObject()
                           .add("kind", "DeviceBusyError")
                           .add("message", busy.what())
                           .add("transient", true)
                           .add("holder", busy.holder())
                           .str());
  } catch (const std::bad_alloc&) {
    return failure(id, "OutOfMemoryError", "memory ran out");
  } catch (const std::exception& error) {
    return failure(id, "RuntimeFailedError", error.what());
  }
}

void Server::serve(int input, int output) {
  std::string line;
  bool too_long = false;
  char buffer[16384];
  for (;;) {
    const ::ssize_t n = ::read(input, buffer, sizeof buffer);
    if (n < 0 && errno == EINTR)
      continue;
    if (n <= 0)
      return;  // a line without its end is none: the host died while it wrote
    for (const char *next = buffer, *end = buffer + n; next < end;) {
      const void* found = std::memchr(next, '\n', static_cast<std::size_t>(end - next));
      const char* stop = found == nullptr ? end : static_cast<const char*>(found);
      const auto size = static_cast<std::size_t>(stop - next);
      too_long = too_long || line.size() + size > kMaxLineBytes;
      if (!too_long)
        line.append(next, size);
      next = stop + 1;
      if (found == nullptr)
        break;
      const std::string reply = too_long
                                    ? failure("null", "InvalidArgumentError",
                                              "the line is longer than " + std::to_string(kMaxLineBytes) + " bytes")
                                    : answer(line);
      line.clear();
      too_long = false;
      if (!write_text(output, reply + "\n"))
        return;
    }
  }
}

std::string Server::host_of(const Request& request) const {
  const JsonValue* host = request.find("host");
  return host == nullptr ? host_ : host->as_string("host");
}

std::string Server::apart(std::string (*describe)()) const {
  return hosting_ == Hosting::kThreads ? describe() : in_child(describe);
}

std::string Server::hello(const Request& request) {
  host_ = host_of(request);
  const std::string description = apart(describe_json);
  const std::string here = JsonObject()
                               .add("pid", static_cast<std::int64_t>(::getpid()))
                               .add("work", work_.path())
                               .add("free_bytes", work_.free_bytes())
                               .str();
  return description.substr(0, description.size() - 1) + ", " + here.substr(1);
}

std::string Server::clock(const Request&) {
  const std::string boot = boot_id();
  JsonObject members;
  members.add_raw("boot_id", boot.empty() ? "null" : json_string(boot));
  return members.add("wall_ns", wall_ns()).add("steady_ns", steady_ns()).str();
}

std::string Server::lease(const Request& request) {
  const std::string host = host_of(request);
  const std::int64_t ttl_s = need(request, "ttl_s").as_integer("ttl_s", 1, kMaxLeaseS);
  leases_.take(host, ttl_s);
  return JsonObject().add("holder", host).add("ttl_s", ttl_s).str();
}

std::string Server::release(const Request& request) {
  return JsonObject().add("released", leases_.release(host_of(request))).str();
}

std::string Server::start(const Request& request) {
  const std::string run = need_text(request, "run");
  const int pid = runs_.start(run, need(request, "request").str(), host_of(request));
  return JsonObject().add("run", run).add("pid", pid).str();
}

std::string Server::status(const Request& request) {
  return runs_.status_json(need_text(request, "run"));
}

std::string Server::list_runs(const Request&) {
  return JsonObject().add_raw("runs", runs_.list_json()).str();
}

std::string Server::cancel(const Request& request) {
  return JsonObject().add("signalled", runs_.cancel(need_text(request, "run"), flag(request, "force"))).str();
}

std::string Server::delete_run(const Request& request) {
  return JsonObject().add("deleted", runs_.remove(need_text(request, "run"))).str();
}

std::string Server::files(const Request& request) {
  const bool with_hash = flag(request, "hash");
  bool truncated = false;
  std::string body;
  for (const WorkFile& file : work_.files(kMaxFiles, truncated)) {
    JsonObject entry;
    entry.add("path", file.path).add("bytes", file.bytes);
    if (with_hash)
      entry.add("sha256", work_.digest(file.path).sha256);
    if (body.size() + entry.str().size() > kMaxLineBytes - 4096) {
      truncated = true;
      break;
    }
    append_item(body, entry.str());
  }
  return JsonObject().add_raw("files", "[" + body + "]").add("truncated", truncated).str();
}

std::string Server::hash(const Request& request) {
  const FileDigest digest = work_.digest(need_text(request, "path"));
  return JsonObject().add("sha256", digest.sha256).add("bytes", digest.bytes).str();
}

std::string Server::remove(const Request& request) {
  return JsonObject().add("removed", work_.remove(need_text(request, "path"))).str();
}

std::string Server::inspect(const Request& request) {
  return inspect_json(work_.absolute(need_text(request, "model")), kMaxLineBytes - 4096);
}

std::string Server::sensors(const Request&) {
  return JsonObject().add_raw("sensors", apart(sensors_json)).str();
}

}  // namespace melt::agent
