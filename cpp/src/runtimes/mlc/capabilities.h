// SPDX-License-Identifier: Apache-2.0
// What of TVM this adapter uses: checked once it is open, so that what does not fit is said before a model is loaded.
#pragma once

namespace melt::mlc {

/// Raises: Error(kInvalidArgument) that lists what is missing, what was found and what is needed.
void check_capabilities();

}  // namespace melt::mlc
