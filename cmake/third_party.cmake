# Brings the source trees pinned in third_party/pins.toml into the build tree, through tools/third_party.py.

# Mirrors the pinned tree `name`, patched, into <build>/third_party/<name>. A cache variable MELT_<NAME>_DIR or an
# environment variable of that name puts your own tree in the place of the pinned one; it is only read.
function(melt_prepare_third_party name)
  find_package(Python 3.10 REQUIRED COMPONENTS Interpreter)
  string(TOUPPER ${name} upper)
  string(REGEX REPLACE "[.-]" "_" variable MELT_${upper}_DIR)
  set(${variable} "" CACHE PATH "your own ${name} tree instead of the pinned one")
  set(command ${Python_EXECUTABLE} ${CMAKE_SOURCE_DIR}/tools/third_party.py prepare ${name}
              --out ${CMAKE_BINARY_DIR}/third_party/${name})
  if(${variable})
    list(APPEND command --from ${${variable}})
  endif()
  execute_process(COMMAND ${command} RESULT_VARIABLE failed)
  if(failed)
    message(FATAL_ERROR "${name} could not be prepared: the reason is above")
  endif()

  # Configure again when a pin, a patch or the tool changes; the folder itself stands for patches that come and go.
  set(patches ${CMAKE_SOURCE_DIR}/third_party/patches/${name})
  file(GLOB patch_files ${patches}/*.patch)
  if(EXISTS ${patches})
    list(APPEND patch_files ${patches})
  endif()
  set_property(DIRECTORY ${CMAKE_SOURCE_DIR} APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS
    ${CMAKE_SOURCE_DIR}/third_party/pins.toml ${CMAKE_SOURCE_DIR}/tools/third_party.py
    ${CMAKE_SOURCE_DIR}/tools/unified_diff.py ${patch_files})
endfunction()

# Defines the target doctest, for #include <doctest/doctest.h>.
function(melt_find_doctest)
  melt_prepare_third_party(doctest)
  add_library(doctest INTERFACE)
  target_include_directories(doctest SYSTEM INTERFACE ${CMAKE_BINARY_DIR}/third_party)
  # Its macros use __COUNTER__, which Clang 22 calls an extension.
  target_compile_options(doctest INTERFACE $<$<CXX_COMPILER_ID:Clang>:-Wno-unknown-warning-option -Wno-c2y-extensions>)
endfunction()
