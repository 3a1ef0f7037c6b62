// SPDX-License-Identifier: Apache-2.0
#include "lease.h"

#include <fcntl.h>
#include <sys/file.h>

#include "device.h"
#include "json.h"
#include "json_value.h"
#include "melt/error.h"
#include "protocol.h"

namespace melt::agent {
namespace {

constexpr const char* kPath = "lease.json";
constexpr const char* kLockPath = ".lease.lock";
constexpr std::size_t kMaxHostBytes = 256;
constexpr std::size_t kMaxLeaseBytes = 4096;

void check_name(const std::string& host) {
  if (host.empty() || host.size() > kMaxHostBytes)
    throw Error(ErrorKind::kInvalidArgument, "host must be a name of 1 to " + std::to_string(kMaxHostBytes) + " bytes");
}

}  // namespace

File Leases::lock() const {
  File file = work_.open(kLockPath, O_RDWR | O_CREAT);
  ::flock(file.get(), LOCK_EX);
  return file;
}

std::string Leases::holder() const {
  if (!work_.exists(kPath))
    return "";
  try {
    const JsonValue lease = parse_json(work_.read(kPath, kMaxLeaseBytes));
    const JsonValue* host = lease.find("host");
    const JsonValue* expires = lease.find("expires_ns");
    const JsonValue* boot = lease.find("boot_id");
    if (host == nullptr || expires == nullptr)
      return "";
    const bool same_start = (boot == nullptr ? "" : boot->as_string("boot_id")) == boot_id();
    const std::int64_t left_ns = expires->as_integer("expires_ns", 0, INT64_MAX) - awake_and_asleep_ns();
    return same_start && left_ns > 0 ? host->as_string("host") : "";
  } catch (const Error&) {  // no lease of ours: nobody's
    return "";
  }
}

void Leases::take(const std::string& host, std::int64_t ttl_s) const {
  check_name(host);
  const File guard = lock();
  check(host);
  work_.replace(kPath, JsonObject()
                           .add("host", host)
                           .add("expires_ns", awake_and_asleep_ns() + ttl_s * 1'000'000'000)
                           .add("boot_id", boot_id())
                           .str());
}

bool Leases::release(const std::string& host) const {
  check_name(host);
  const File guard = lock();
  if (holder() != host)
    return false;
  return work_.remove(kPath);
}

void Leases::check(const std::string& host) const {
  const std::string has_it = holder();
  if (!has_it.empty() && has_it != host)
    throw DeviceBusy(
        "the device is leased to " + json_string(has_it) + ": wait until it is released, or its time is up", has_it);
}

}  // namespace melt::agent
