// SPDX-License-Identifier: Apache-2.0
// The layouts of the trace's records, so that a test can compare them with src/melt_core/trace/format.py.
#include <cstddef>
#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "bind.h"
#include "melt/trace_format.h"
#include "pybind11/stl.h"

namespace py = pybind11;

namespace melt::python {
namespace {

using Fields = std::vector<std::tuple<std::string, std::size_t, std::size_t>>;  // name, offset, bytes

#define MELT_FIELD(Record, field)                          \
  std::tuple<std::string, std::size_t, std::size_t> {      \
    #field, offsetof(Record, field), sizeof(Record::field) \
  }

std::map<std::string, std::pair<std::size_t, Fields>> record_layouts() {
  std::map<std::string, std::pair<std::size_t, Fields>> layouts;
  const auto add = [&](const char* name, std::size_t size, const Fields& fields) { layouts[name] = {size, fields}; };
#define F(field) MELT_FIELD(Record, field)
  {
    using Record = RunRecord;
    add("runs", sizeof(Record),
        {F(run), F(flags), F(stop_reason), F(n_prompt), F(n_output), F(n_threads), F(n_graphs), F(n_groups),
         F(n_records), F(n_dropped), F(start_ns), F(duration_ns), F(prefill_ns), F(peak_rss_bytes)});
  }
  {
    using Record = PhaseRecord;
    add("phases", sizeof(Record), {F(run), F(phase), F(start_ns), F(duration_ns)});
  }
  {
    using Record = TokenRecord;
    add("tokens", sizeof(Record),
        {F(run), F(index), F(phase), F(flags), F(token_id), F(n_tokens), F(start_ns), F(duration_ns)});
  }
  {
    using Record = GraphRecord;
    add("graphs", sizeof(Record),
        {F(topology), F(token), F(n_threads), F(flags), F(n_groups), F(n_dropped), F(start_ns), F(duration_ns)});
  }
  {
    using Record = OpDefinition;
    add("op_definitions", sizeof(Record),
        {F(topology), F(node), F(layer), F(n_fused), F(flops), F(bytes_read), F(bytes_written), F(dtype), F(src_dtype),
         F(shape), F(src_shape), F(op), F(weight), F(op_type), F(module), F(backend), F(buffer), F(live_bytes)});
  }
  {
    using Record = OpRecord;
    add("ops", sizeof(Record),
        {F(start_ns), F(compute_ns), F(wait_ns), F(op), F(graph), F(token), F(thread), F(flags)});
  }
  {
    using Record = OverheadRecord;
    add("overhead", sizeof(Record), {F(phase), F(on_first), F(n_tokens), F(off_ns), F(on_ns)});
  }
  {
    using Record = PromptRecord;
    add("prompts", sizeof(Record), {F(run), F(token_id)});
  }
  {
    using Record = AllocationRecord;
    add("allocations", sizeof(Record),
        {F(time_ns), F(bytes), F(buffer_id), F(category), F(event), F(backend), F(buffer)});
  }
  {
    using Record = ChannelRecord;
    add("channels", sizeof(Record), {F(channel), F(site), F(kind), F(unit), F(source)});
  }
  {
    using Record = SampleRecord;
    add("samples", sizeof(Record), {F(time_ns), F(value), F(channel)});
  }
  {
    using Record = CounterRecord;
    add("counters", sizeof(Record), {F(name), F(source), F(kind), F(offset)});
  }
  {
    using Record = SwitchRecord;
    add("switches", sizeof(Record),
        {F(start_ns), F(duration_ns), F(run), F(thread), F(flags), F(cpu_before), F(cpu_after)});
  }
#undef F
#undef MELT_FIELD
  return layouts;
}

}  // namespace

void bind_trace_format(py::module_& m) {
  m.def("record_layouts", &record_layouts, "name -> (bytes of a record, [(field, offset, bytes), ...]).");
}

}  // namespace melt::python
