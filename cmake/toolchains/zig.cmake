# Cross-compiles with zig's clang, headers and C libraries (PyPI's ziglang): one compiler for glibc of any age and for
# static musl, no sysroot. tools/cross.py fetches it and sets MELT_ZIG; MELT_ZIG_TARGET is zig's name of the target.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)

set(MELT_ZIG "$ENV{MELT_ZIG}" CACHE FILEPATH "the zig program")
set(MELT_ZIG_TARGET aarch64-linux-gnu.2.28 CACHE STRING "as zig names it")
set(CMAKE_TRY_COMPILE_PLATFORM_VARIABLES MELT_ZIG MELT_ZIG_TARGET MELT_ZIG_TOOLS)
if(NOT EXISTS "${MELT_ZIG}")
  message(FATAL_ERROR "MELT_ZIG is \"${MELT_ZIG}\", which is no file: run `make cross PRESET=...`, or "
                      "`pip install ziglang` and name .../site-packages/ziglang/zig")
endif()

# CMake wants each tool as one program.
if(NOT MELT_ZIG_TOOLS)
  set(MELT_ZIG_TOOLS ${CMAKE_BINARY_DIR}/toolchain)
  foreach(tool cc c++ ar ranlib)
    configure_file(${CMAKE_CURRENT_LIST_DIR}/zig-tool.sh.in ${MELT_ZIG_TOOLS}/zig-${tool} @ONLY)
    file(CHMOD ${MELT_ZIG_TOOLS}/zig-${tool} PERMISSIONS OWNER_READ OWNER_WRITE OWNER_EXECUTE)
  endforeach()
endif()
set(CMAKE_C_COMPILER ${MELT_ZIG_TOOLS}/zig-cc)
set(CMAKE_CXX_COMPILER ${MELT_ZIG_TOOLS}/zig-c++)
set(CMAKE_AR ${MELT_ZIG_TOOLS}/zig-ar)
set(CMAKE_RANLIB ${MELT_ZIG_TOOLS}/zig-ranlib)

set(CMAKE_EXE_LINKER_FLAGS_INIT "-s")
set(CMAKE_MODULE_LINKER_FLAGS_INIT "-s")
if(MELT_ZIG_TARGET MATCHES musl)
  # musl gives threads 128 KB of stack unless the program asks for more; Android 15 may have pages of 16 KB.
  string(APPEND CMAKE_EXE_LINKER_FLAGS_INIT " -static -Wl,-z,stack-size=8388608 -Wl,-z,max-page-size=16384")
endif()

include(${CMAKE_CURRENT_LIST_DIR}/emulated_arm64.cmake)
