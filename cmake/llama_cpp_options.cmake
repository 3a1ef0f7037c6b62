# The flags that llama.cpp is built with; benchmarks/stock uses the same ones.
set(BUILD_SHARED_LIBS OFF)
set(GIT_EXE "")  # otherwise ggml reports the commit of the repository around it, that is, of ours
foreach(part COMMON TESTS TOOLS EXAMPLES SERVER APP)
  set(LLAMA_BUILD_${part} OFF)
endforeach()
set(LLAMA_OPENSSL OFF)
set(LLAMA_ALL_WARNINGS OFF)  # theirs to mend
set(GGML_OPENMP OFF)  # we own the thread pool: OpenMP's would differ from platform to platform
set(GGML_CCACHE OFF)  # compiler.cmake has set it up

# Compile options of ggml-cpu. Processors of this family take instructions from lines of 64 bytes, compilers align
# functions to 16: a line that a patch adds anywhere moved AMX products by 32 bytes and made a prefill 0.5 % longer.
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64|amd64")
  set(melt_ggml_cpu_options -falign-functions=64)
endif()

if(MELT_PORTABLE)
  set(GGML_NATIVE OFF)
  if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64|amd64")
    foreach(extension SSE42 AVX AVX2 FMA F16C BMI2)
      set(GGML_${extension} ON)
    endforeach()
  endif()
endif()
