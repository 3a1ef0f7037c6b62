# Every source file of ours, by name: the only such list.
set(MELT_CORE_SOURCES
  cpp/src/allocation_log.cpp
  cpp/src/ceilings/ceilings.cpp
  cpp/src/ceilings/cpu_x86.cpp
  cpp/src/ceilings/kernels_amx.cpp
  cpp/src/ceilings/kernels_arm64.cpp
  cpp/src/ceilings/kernels_other.cpp
  cpp/src/ceilings/kernels_x86.cpp
  cpp/src/ceilings/rounds.cpp
  cpp/src/ceilings/working_sets.cpp
  cpp/src/clock.cpp
  cpp/src/environment.cpp
  cpp/src/json.cpp
  cpp/src/memory_level.cpp
  cpp/src/memory_records.cpp
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
  cpp/src/sensors/interference.cpp
  cpp/src/sensors/memory_account.cpp
  cpp/src/sensors/proc_file.cpp
  cpp/src/sensors/process_memory.cpp
  cpp/src/sensors/sampler.cpp
  cpp/src/trace/reader.cpp
  cpp/src/trace/writer.cpp
)

# The only sources that see ggml.h and llama.h.
set(MELT_LLAMA_CPP_SOURCES
  cpp/src/runtimes/llama_cpp/attribution.cpp
  cpp/src/runtimes/llama_cpp/memory_hooks.cpp
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
  cpp/bindings/bind_ceilings.cpp
  cpp/bindings/bind_errors.cpp
  cpp/bindings/bind_models.cpp
  cpp/bindings/bind_profiler.cpp
  cpp/bindings/bind_sessions.cpp
  cpp/bindings/bind_trace_format.cpp
  cpp/bindings/interrupt.cpp
)

set(MELT_TEST_SOURCES
  cpp/tests/counting_allocator.cpp
  cpp/tests/main.cpp
  cpp/tests/test_ceilings.cpp
  cpp/tests/test_clock.cpp
  cpp/tests/test_fuzz.cpp
  cpp/tests/test_gguf.cpp
  cpp/tests/test_memory.cpp
  cpp/tests/test_recorder.cpp
  cpp/tests/test_run.cpp
  cpp/tests/test_sampler.cpp
  cpp/tests/test_trace.cpp
)

# The only tests that see ggml.h.
set(MELT_LLAMA_CPP_TEST_SOURCES
  cpp/tests/test_op_cost.cpp
)
