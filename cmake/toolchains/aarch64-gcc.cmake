# Cross-compiles with the distribution's GCC (Debian, Ubuntu: g++-aarch64-linux-gnu), for its own glibc or a newer one.
# The C++ library is linked in: the result needs that of C alone.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)

set(CMAKE_FIND_ROOT_PATH /usr/aarch64-linux-gnu)
set(CMAKE_EXE_LINKER_FLAGS_INIT "-s -static-libstdc++ -static-libgcc")
include(${CMAKE_CURRENT_LIST_DIR}/emulated_arm64.cmake)
list(APPEND CMAKE_CROSSCOMPILING_EMULATOR -L /usr/aarch64-linux-gnu)
