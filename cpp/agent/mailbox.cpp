// SPDX-License-Identifier: Apache-2.0
#include "mailbox.h"

#include <unistd.h>

#include <algorithm>
#include <string>

#include "melt/error.h"
#include "protocol.h"

namespace melt::agent {
namespace {

constexpr unsigned kPollUs = 100'000;
constexpr std::size_t kMaxNameBytes = 64;

bool ends_with(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

/// "SESSION" of "SESSION.N.in"; empty for a name that is none of ours.
std::string session_of(const std::string& name) {
  const std::size_t dot = name.find('.');
  return dot == std::string::npos || dot == 0 || name.size() > kMaxNameBytes ? "" : name.substr(0, dot);
}

/// A request that is still being written has no end yet, and is looked at again.
bool is_complete(const WorkDir& work, const std::string& path, std::string& line) {
  line = work.read(path, kMaxLineBytes + 1);
  if (line.empty() || line.back() != '\n')
    return false;
  line.pop_back();
  return true;
}

/// What a session has read, or what one left that is over.
void remove_answers(const WorkDir& work, const std::string& session) {
  for (const std::string& name : work.names(kMailbox)) {
    if (ends_with(name, ".out") && session_of(name) == session)
      work.remove(std::string(kMailbox) + "/" + name);
  }
}

}  // namespace

bool answer_mailbox(const WorkDir& work, Server& server) {
  bool any = false;
  for (const std::string& name : work.names(kMailbox)) {
    const std::string session = session_of(name);
    if (!ends_with(name, ".in") || session.empty())
      continue;
    const std::string path = std::string(kMailbox) + "/" + name;
    std::string line;
    try {
      if (!is_complete(work, path, line))
        continue;
    } catch (const Error&) {  // longer than a line may be
      work.remove(path);
      continue;
    }
    any = true;
    remove_answers(work, session);
    const std::string reply = server.answer(line);
    work.remove(path);  // before the answer: it is carried out once, whatever happens now
    work.replace(path.substr(0, path.size() - 3) + ".out", reply + "\n");
  }
  return any;
}

void serve_mailbox(const WorkDir& work, Server& server, const std::atomic<bool>& stop) {
  work.make_directory(kMailbox);
  for (const std::string& name : work.names(kMailbox))
    work.remove(std::string(kMailbox) + "/" + name);
  for (const char* folder : {"models", "runs"})  // last: who sees them knows that what it puts in the box stays there
    work.make_directory(folder);
  while (!stop.load()) {
    if (!answer_mailbox(work, server))
      ::usleep(kPollUs);
  }
}

}  // namespace melt::agent
