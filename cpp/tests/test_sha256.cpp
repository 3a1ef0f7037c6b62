// SPDX-License-Identifier: Apache-2.0
// SHA-256 against NIST's examples (FIPS 180-4, CAVP) and against itself in pieces.
#include <doctest/doctest.h>

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string>

#include "melt/error.h"
#include "sha256.h"

using namespace melt;

namespace {

std::string sha256_of(const std::string& text, std::size_t piece) {
  Sha256 sha;
  for (std::size_t i = 0; i < text.size(); i += piece)
    sha.update(text.data() + i, std::min(piece, text.size() - i));
  return sha.hex();
}

}  // namespace

TEST_CASE("sha256: known digests") {
  CHECK(sha256_of("", 1) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  CHECK(sha256_of("abc", 3) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  CHECK(sha256_of("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 7) ==
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  CHECK(sha256_of(std::string(1000000, 'a'), 4096) ==
        "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST_CASE("sha256: pieces of any size give the same, at every length around a block") {
  for (std::size_t size = 0; size < 200; ++size) {
    std::string text;
    for (std::size_t i = 0; i < size; ++i)
      text += static_cast<char>(i * 37 + 1);
    const std::string whole = sha256_of(text, size + 1);
    for (const std::size_t piece : {std::size_t{1}, std::size_t{3}, std::size_t{63}, std::size_t{64}, std::size_t{65}})
      CHECK(sha256_of(text, piece) == whole);
  }
}

TEST_CASE("sha256: of a file") {
  char path[] = "/tmp/melt-sha-XXXXXX";
  const int file = ::mkstemp(path);
  REQUIRE(file >= 0);
  REQUIRE(::write(file, "abc", 3) == 3);
  const FileDigest digest = digest_file(path);
  CHECK(digest.bytes == 3);
  CHECK(digest.sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  ::close(file);
  ::unlink(path);
  CHECK_THROWS_AS(digest_file(path), Error);
}
