# For toolchains of arm64 Linux: what is looked for where, and how this machine runs the result.
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)

# -cpu max without pauth-impdef computes pointer authentication in software, slowly.
find_program(MELT_QEMU NAMES qemu-aarch64-static qemu-aarch64)
if(MELT_QEMU)
  set(CMAKE_CROSSCOMPILING_EMULATOR "${MELT_QEMU};-cpu;max,pauth-impdef=on")
endif()
