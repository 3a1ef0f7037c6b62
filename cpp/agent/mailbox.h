// SPDX-License-Identifier: Apache-2.0
// The request loop where a host cannot write to a program, as on iOS: requests and answers are files in the work
// directory.
//
//   mailbox/SESSION.N.in    put there by the host: one line, complete when it ends with a newline
//   mailbox/SESSION.N.out   the answer, there as a whole or not at all; it lies until the session's next request
#pragma once

#include <atomic>

#include "server.h"
#include "work_dir.h"

namespace melt::agent {

constexpr const char* kMailbox = "mailbox";

/// Makes the folders that a host pushes into, and answers requests until `stop` is set.
/// It looks ten times a second: a listing of an empty folder is all that a run is disturbed by.
/// Raises: Error(kIo).
void serve_mailbox(const WorkDir& work, Server& server, const std::atomic<bool>& stop);

/// One look: answers what is there. Returns whether there was anything.
bool answer_mailbox(const WorkDir& work, Server& server);

}  // namespace melt::agent
