// SPDX-License-Identifier: Apache-2.0
// The test program's main(), from doctest.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>
