# Every source file of ours, by name: the only such list.
set(MELT_CORE_SOURCES
  cpp/src/clock.cpp
  cpp/src/device_memory.cpp
  cpp/src/environment.cpp
  cpp/src/json.cpp
  cpp/src/models/gguf.cpp
  cpp/src/models/gguf_check.cpp
  cpp/src/models/gguf_file.cpp
  cpp/src/op_records.cpp
  cpp/src/overhead.cpp
  cpp/src/recorder.cpp
  cpp/src/repetition.cpp
  cpp/src/run.cpp
  cpp/src/run_metadata.cpp
  cpp/src/runtimes/registry.cpp
  cpp/src/runtimes/synthetic.cpp
  cpp/src/trace/reader.cpp
  cpp/src/trace/writer.cpp
)

# The only sources that see ggml.h and llama.h.
set(MELT_LLAMA_CPP_SOURCES
  cpp/src/runtimes/llama_cpp/attribution.cpp
  cpp/src/runtimes/llama_cpp/memory_parts.cpp
  cpp/src/runtimes/llama_cpp/op_cost.cpp
  cpp/src/runtimes/llama_cpp/op_hooks.cpp
  cpp/src/runtimes/llama_cpp/runtime.cpp
  cpp/src/runtimes/llama_cpp/session.cpp
  cpp/src/runtimes/llama_cpp/text.cpp
  cpp/src/runtimes/llama_cpp/topology.cpp
  cpp/src/runtimes/llama_cpp/upstream.cpp
)

set(MELT_BINDING_SOURCES
  cpp/bindings/module.cpp
  cpp/bindings/bind_errors.cpp
  cpp/bindings/bind_fit.cpp
  cpp/bindings/bind_models.cpp
  cpp/bindings/bind_profiler.cpp
  cpp/bindings/bind_sessions.cpp
  cpp/bindings/bind_trace_format.cpp
  cpp/bindings/interrupt.cpp
)

set(MELT_TEST_SOURCES
  cpp/tests/counting_allocator.cpp
  cpp/tests/main.cpp
  cpp/tests/test_clock.cpp
  cpp/tests/test_device_memory.cpp
  cpp/tests/test_fuzz.cpp
  cpp/tests/test_gguf.cpp
  cpp/tests/test_recorder.cpp
  cpp/tests/test_run.cpp
  cpp/tests/test_trace.cpp
)
