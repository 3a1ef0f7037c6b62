/* SPDX-License-Identifier: Apache-2.0
 * The agent for apps that may start no processes, as on iOS: it answers a host's requests (docs/agent_protocol.md),
 * which are files in DIR/mailbox, and executes runs in threads of the app. In libmelt_agent.
 *
 *   const char* reason = melt_agent_serve("/path/of/Documents");  // on a thread of its own
 *   if (reason != NULL)
 *     fprintf(stderr, "%s\n", reason);
 */
#ifndef MELT_AGENT_H
#define MELT_AGENT_H

#include "melt.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Answers requests below `work_dir` until melt_agent_stop, and returns NULL; a run that is going on goes on after that.
 * Otherwise why it could not: one line, valid until this thread's next call. */
MELT_API const char* melt_agent_serve(const char* work_dir);

/* Lets melt_agent_serve return, from any thread. */
MELT_API void melt_agent_stop(void);

#ifdef __cplusplus
}
#endif

#endif /* MELT_AGENT_H */
