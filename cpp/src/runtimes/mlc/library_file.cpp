// SPDX-License-Identifier: Apache-2.0
#include "library_file.h"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <vector>

#include "melt/error.h"
#include "text_list.h"

namespace melt::mlc {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void refuse(const std::string& message) {
  throw Error(ErrorKind::kModel, message);
}

/// e_machine of the ELF specification.
std::string elf_processor(const unsigned char* head) {
  const bool big_endian = head[5] == 2;
  const unsigned machine = big_endian ? head[18] * 256u + head[19] : head[19] * 256u + head[18];
  switch (machine) {
    case 62:
      return "x86_64";
    case 183:
      return "aarch64";
    case 3:
      return "i386";
    case 40:
      return "arm";
    case 243:
      return "riscv64";
    default:
      return "an ELF machine of number " + std::to_string(machine);
  }
}

/// Raises if a 64-bit ELF file ends before its headers say: the loader would map what is not there, and the process die
/// of the first access (SIGBUS).
void require_whole(const std::string& path, std::ifstream& file) {
  constexpr std::size_t kHeader = 64, kSegment = 56;  // sizeof(Elf64_Ehdr), sizeof(Elf64_Phdr)
  file.clear();
  file.seekg(0, std::ios::end);
  const auto size = static_cast<std::uint64_t>(file.tellg());
  const auto read_at = [&](std::uint64_t offset, char* to, std::size_t n) {
    file.clear();
    file.seekg(static_cast<std::streamoff>(offset));
    file.read(to, static_cast<std::streamsize>(n));
    if (static_cast<std::size_t>(file.gcount()) != n)
      refuse("the model library " + path + " is cut short: fetch or compile it again");
  };
  const auto number = [](const char* from, std::size_t n) {
    std::uint64_t value = 0;
    std::memcpy(&value, from, n);  // little-endian, as all processors here are
    return value;
  };
  char header[kHeader];
  read_at(0, header, kHeader);
  if (header[4] != 2 || header[5] != 1)
    return;
  std::uint64_t end = number(header + 40, 8) + number(header + 60, 2) * number(header + 58, 2);  // section headers
  const std::uint64_t segments = number(header + 32, 8), n_segments = number(header + 56, 2);
  for (std::uint64_t i = 0; i < n_segments; ++i) {
    char segment[kSegment];
    read_at(segments + i * kSegment, segment, kSegment);
    end = std::max(end, number(segment + 8, 8) + number(segment + 32, 8));  // p_offset + p_filesz
  }
  if (end > size) {
    refuse("the model library " + path + " is cut short: it has " + std::to_string(size) + " of its " +
           std::to_string(end) + " bytes; fetch or compile it again");
  }
}

/// cputype of <mach/machine.h>.
std::string mach_processor(const unsigned char* head) {
  std::uint32_t type = 0;
  std::memcpy(&type, head + 4, sizeof type);
  if (type == 0x01000007)
    return "x86_64 (macOS)";
  return type == 0x0100000C ? "aarch64 (Apple)" : "a Mach-O processor of number " + std::to_string(type);
}

}  // namespace

std::string processor_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  unsigned char head[20] = {};
  file.read(reinterpret_cast<char*>(head), sizeof head);
  if (file.gcount() != sizeof head)
    refuse("the model library " + path + " cannot be read, or is cut short");
  constexpr unsigned char kMach64[4] = {0xCF, 0xFA, 0xED, 0xFE};
  if (std::memcmp(head, "\177ELF", 4) == 0) {
    require_whole(path, file);
    return elf_processor(head);
  }
  if (std::memcmp(head, kMach64, 4) == 0)
    return mach_processor(head);
  refuse("the model library " + path + " is no shared library (ELF or Mach-O): compile the model for this machine");
}

const char* host_processor() noexcept {
#if defined(__APPLE__) && defined(__aarch64__)
  return "aarch64 (Apple)";
#elif defined(__APPLE__)
  return "x86_64 (macOS)";
#elif defined(__x86_64__)
  return "x86_64";
#elif defined(__aarch64__)
  return "aarch64";
#else
  return "unknown";
#endif
}

std::string find_model_library(const std::string& folder, const std::string& chosen) {
  if (!chosen.empty()) {
    const std::string processor = processor_of(chosen);
    if (processor != host_processor()) {
      refuse("the model library " + chosen + " is for " + processor + ", this machine is " + host_processor() +
             ": compile the model for it");
    }
    return chosen;
  }
  std::vector<std::string> fitting, others;
  std::error_code failed;
  for (fs::directory_iterator it(folder, failed), end; !failed && it != end; it.increment(failed)) {
    const std::string extension = it->path().extension().string();
    if (extension != ".so" && extension != ".dylib")
      continue;
    const std::string processor = processor_of(it->path().string());
    (processor == host_processor() ? fitting : others).push_back(it->path().filename().string() + " for " + processor);
  }
  std::sort(fitting.begin(), fitting.end());
  std::string listed;
  for (const auto* names : {&fitting, &others}) {
    for (const std::string& name : *names)
      append_item(listed, name);
  }
  if (fitting.size() == 1)
    return (fs::path(folder) / fitting.front().substr(0, fitting.front().rfind(" for "))).string();
  if (listed.empty())
    refuse(folder +
           " holds no model library (*.so): compile the model for this machine, or name a library (model_lib)");
  if (fitting.empty())
    refuse(folder + " holds no model library for this machine, which is " + host_processor() + ", but " + listed);
  refuse(folder + " holds several model libraries: name one (model_lib): " + listed);
}

}  // namespace melt::mlc
