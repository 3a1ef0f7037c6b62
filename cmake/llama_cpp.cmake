# Adds the libraries `llama` and `ggml` from the prepared tree, with our hooks compiled into ggml-cpu.
# Sets melt_llama_cpp_tree and melt_llama_cpp_commit.
melt_prepare_third_party(llama.cpp)
set(melt_llama_cpp_tree ${CMAKE_BINARY_DIR}/third_party/llama.cpp)
file(READ ${melt_llama_cpp_tree}/.melt-prepared.json prepared)
string(JSON melt_llama_cpp_commit GET "${prepared}" commit)

include(cmake/llama_cpp_options.cmake)
set(LLAMA_BUILD_COMMIT ${melt_llama_cpp_commit})
set(LLAMA_BUILD_NUMBER 0)

add_subdirectory(${melt_llama_cpp_tree} ${CMAKE_BINARY_DIR}/third_party/llama.cpp-build EXCLUDE_FROM_ALL)

target_compile_options(ggml-cpu PRIVATE ${melt_ggml_cpu_options})
# Which instructions its flags allow, as data (cpp/src/cpu_features.cpp).
target_sources(ggml-cpu PRIVATE ${CMAKE_SOURCE_DIR}/cpp/src/runtimes/llama_cpp/compiled_features.c)
# The patch that adds the hooks guards them with GGML_MELT and includes our header.
target_compile_definitions(ggml-cpu PRIVATE GGML_MELT)
target_include_directories(ggml-cpu PRIVATE ${CMAKE_SOURCE_DIR}/cpp/include ${CMAKE_SOURCE_DIR}/cpp/src/runtimes/llama_cpp)
