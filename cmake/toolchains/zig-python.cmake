# zig.cmake for a Python module: the headers are those of the target's Python, unpacked below MELT_TARGET_ROOT.
set(MELT_TARGET_ROOT "" CACHE PATH "folder with usr/include/pythonX.Y of the target")
set(MELT_TARGET_PYTHON 3.11 CACHE STRING "version of the target's Python")
list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES MELT_TARGET_ROOT MELT_TARGET_PYTHON)
set(melt_python_variables ${CMAKE_TRY_COMPILE_PLATFORM_VARIABLES})
include(${CMAKE_CURRENT_LIST_DIR}/zig.cmake)
list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES ${melt_python_variables})
set(Python_INCLUDE_DIR ${MELT_TARGET_ROOT}/usr/include/python${MELT_TARGET_PYTHON} CACHE PATH "")
# Debian's pyconfig.h includes <aarch64-linux-gnu/pythonX.Y/pyconfig.h>; only that folder, so that the C library's
# headers stay zig's.
set(melt_python_headers ${CMAKE_BINARY_DIR}/toolchain/include)
if(MELT_TARGET_ROOT)
  file(MAKE_DIRECTORY ${melt_python_headers}/aarch64-linux-gnu)
  file(CREATE_LINK ${MELT_TARGET_ROOT}/usr/include/aarch64-linux-gnu/python${MELT_TARGET_PYTHON}
    ${melt_python_headers}/aarch64-linux-gnu/python${MELT_TARGET_PYTHON} SYMBOLIC)
  include_directories(SYSTEM ${melt_python_headers})
endif()
