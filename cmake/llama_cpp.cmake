# Adds the libraries `llama` and `ggml` from the prepared tree, with our hooks compiled into ggml-cpu.
# Sets melt_llama_cpp_tree and melt_llama_cpp_commit.
melt_prepare_third_party(llama.cpp)
set(melt_llama_cpp_tree ${CMAKE_BINARY_DIR}/third_party/llama.cpp)
file(READ ${melt_llama_cpp_tree}/.melt-prepared.json prepared)
string(JSON melt_llama_cpp_commit GET "${prepared}" commit)

set(BUILD_SHARED_LIBS OFF)
set(LLAMA_BUILD_COMMIT ${melt_llama_cpp_commit})
set(LLAMA_BUILD_NUMBER 0)
set(GIT_EXE "")  # otherwise ggml reports the commit of the repository around it, that is, of ours
foreach(part COMMON TESTS TOOLS EXAMPLES SERVER APP)
  set(LLAMA_BUILD_${part} OFF)
endforeach()
set(LLAMA_OPENSSL OFF)
set(LLAMA_ALL_WARNINGS OFF)  # theirs to mend
set(GGML_OPENMP OFF)  # we own the thread pool: OpenMP's would differ from platform to platform
set(GGML_CCACHE OFF)  # compiler.cmake has set it up

if(MELT_PORTABLE)
  set(GGML_NATIVE OFF)
  if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64|amd64")
    foreach(extension SSE42 AVX AVX2 FMA F16C BMI2)
      set(GGML_${extension} ON)
    endforeach()
  endif()
endif()

add_subdirectory(${melt_llama_cpp_tree} ${CMAKE_BINARY_DIR}/third_party/llama.cpp-build EXCLUDE_FROM_ALL)

# The patch that adds the hooks guards them with GGML_MELT and includes our header.
target_compile_definitions(ggml-cpu PRIVATE GGML_MELT)
target_include_directories(ggml-cpu PRIVATE ${CMAKE_SOURCE_DIR}/cpp/include ${CMAKE_SOURCE_DIR}/cpp/src/runtimes/llama_cpp)
