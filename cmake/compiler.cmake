# Language level, warnings, sanitizers, ccache. What holds for our own code only is in the interface target melt_flags.
set(CMAKE_CXX_STANDARD 17)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_C_VISIBILITY_PRESET hidden)
set(CMAKE_CXX_VISIBILITY_PRESET hidden)
set(CMAKE_VISIBILITY_INLINES_HIDDEN ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)

if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "Debug, Release, RelWithDebInfo or MinSizeRel" FORCE)
endif()

find_package(Threads REQUIRED)

find_program(MELT_CCACHE ccache)
mark_as_advanced(MELT_CCACHE)
if(MELT_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  # Paths relative to the checkout, so that a second checkout or build folder finds what the first one compiled.
  get_filename_component(melt_checkout ${CMAKE_CURRENT_LIST_DIR}/.. ABSOLUTE)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CMAKE_COMMAND} -E env CCACHE_BASEDIR=${melt_checkout} ${MELT_CCACHE})
  set(CMAKE_C_COMPILER_LAUNCHER ${CMAKE_CXX_COMPILER_LAUNCHER})
endif()

add_library(melt_flags INTERFACE)
target_compile_options(melt_flags INTERFACE -Wall -Wextra -Wpedantic -Wshadow -Wconversion)
if(MELT_WERROR)
  target_compile_options(melt_flags INTERFACE -Werror)
endif()

if(MELT_SANITIZE)
  # Third-party code too: our hooks run inside ggml's loops. -fno-sanitize-recover only for ours, which must be clean.
  add_compile_options(-fsanitize=${MELT_SANITIZE} -fno-omit-frame-pointer)
  add_link_options(-fsanitize=${MELT_SANITIZE})
  target_compile_options(melt_flags INTERFACE -fno-sanitize-recover=all)
endif()

# For melt_build_info.h.
string(TOUPPER "${CMAKE_BUILD_TYPE}" build_type)
string(STRIP "${CMAKE_CXX_FLAGS} ${CMAKE_CXX_FLAGS_${build_type}}" melt_build_flags)
string(REPLACE "\"" "\\\"" melt_build_flags "${melt_build_flags}")
set(melt_build_instructions native)
if(MELT_PORTABLE)
  set(melt_build_instructions portable)
elseif(CMAKE_CROSSCOMPILING)
  set(melt_build_instructions "${GGML_CPU_ARM_ARCH}")
endif()
