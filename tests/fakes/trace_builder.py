"""Builds traces from NumPy arrays, for tests and benchmarks only: the recorder is the C++ core's.

    builder = TraceBuilder()
    builder.metadata({"model": {"name": "toy"}})
    builder.records(ChunkKind.RUNS, runs)
    data = builder.finish()

`toy_trace()` is a small trace in which every number can be worked out by hand, see its comment. Running this file
writes the golden file anew: `python tests/fakes/trace_builder.py tests/golden` (only ever for a new format version;
a golden file of a released version is never written again).
"""

from __future__ import annotations

import json
import struct
import sys
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from melt_core.trace.format import (
    CHUNK_MAGIC,
    NONE,
    OP,
    OP_DEFINITION,
    RECORDS,
    RUN_WARMUP,
    TOKEN_END_OF_TEXT,
    TRACE_MAGIC,
    TRACE_MAJOR,
    TRACE_MINOR,
    ChunkKind,
    ClockId,
    Phase,
    StopReason,
)

MAX_CHUNK_BYTES = 16 << 20
US = 1_000


def file_header(
    *, major: int = TRACE_MAJOR, minor: int = TRACE_MINOR, header_bytes: int = 64, start_wall_ns: int = 0
) -> bytes:
    """Returns a file header with a right checksum."""
    head = struct.pack(
        "<8sHHIIIdq16sI",
        TRACE_MAGIC,
        major,
        minor,
        header_bytes,
        ClockId.SIMULATED,
        0,
        1e9,
        start_wall_ns,
        bytes(16),
        0,
    )
    return head + struct.pack("<I", zlib.crc32(head)) + bytes(header_bytes - 64)


def chunk(kind: int, payload: bytes, record_bytes: int = 0, record_count: int = 0) -> bytes:
    """Returns one chunk with right checksums."""
    magic = struct.unpack("<I", CHUNK_MAGIC)[0]
    head = struct.pack("<IIIIQI", magic, kind, record_bytes, record_count, len(payload), zlib.crc32(payload))
    return head + struct.pack("<I", zlib.crc32(head)) + payload + bytes(-len(payload) % 8)


class TraceBuilder:
    """Writes a trace chunk by chunk, to memory or to a file."""

    def __init__(self, file: BinaryIO | None = None, **header: int) -> None:
        self._file = file
        self._parts: list[bytes] = []
        self._write(file_header(**header))

    def _write(self, data: bytes) -> None:
        if self._file is None:
            self._parts.append(data)
        else:
            self._file.write(data)

    def metadata(self, value: dict[str, Any]) -> None:
        self._write(chunk(ChunkKind.METADATA, json.dumps(value).encode()))

    def raw(self, data: bytes) -> None:
        self._write(data)

    def records(self, kind: ChunkKind, rows: NDArray[Any]) -> None:
        """Writes records, as several chunks above 16 MiB like the core."""
        size = rows.dtype.itemsize
        step = MAX_CHUNK_BYTES // size
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            self._write(chunk(kind, part.tobytes(), size, len(part)))

    def finish(self) -> bytes:
        self._write(chunk(ChunkKind.END, b""))
        return b"".join(self._parts)


def rows_of(kind: ChunkKind, rows: list[dict[str, Any]]) -> NDArray[Any]:
    """Returns records of one kind from dicts; fields not named are zero."""
    made = np.zeros(len(rows), RECORDS[kind])
    for row, values in zip(made, rows, strict=True):
        for name, value in values.items():
            row[name] = value
    return made


METADATA: dict[str, Any] = {
    "model": {
        "name": "toy-1M",
        "path": "/models/toy-1M.Q4_0.gguf",
        "architecture": "llama",
        "quantization": "q4_0",
        "n_params": 1_000_000,
        "size_bytes": 562_500,
        "n_layer": 2,
        "sha256": "00" * 32,
    },
    "runtime": {"name": "synthetic", "version": "1.0", "commit": "abc1234", "build_flags": "none"},
    "device": {
        "hostname": "bench",
        "cpu_model": "Imaginary CPU",
        "n_cpus": 4,
        "cpu_features": ["avx2"],
        "os": "Linux 6.1",
        "governor": "performance",
        "mem_total_bytes": 8 << 30,
    },
    "config": {"n_ctx": 128, "n_threads": 2, "prompt": "Hi <there> & all", "max_tokens": 3, "seed": 0, "repeats": 3},
    "clock": {"drift_ppm": 0.5},
    "warnings": ["the governor could not be read"],
}

# op, op_type, layer, module, bytes_read, bytes_written, flops, weight
_DEFINITIONS = [
    ("inp_embd", "GET_ROWS", -1, "embedding", 100.0, 50.0, np.nan, "token_embd.weight"),
    ("attn_q-0", "MUL_MAT", 0, "attention", 1000.0, 100.0, 4000.0, "blk.0.attn_q.weight"),
    ("ffn_up-0", "MUL_MAT", 0, "ffn", 2000.0, 200.0, 8000.0, "blk.0.ffn_up.weight"),
    ("attn_q-1", "MUL_MAT", 1, "attention", 1000.0, 100.0, 4000.0, "blk.1.attn_q.weight"),
    ("ffn_norm-1", "RMS_NORM+MUL", 1, "ffn", np.nan, np.nan, np.nan, "blk.1.ffn_norm.weight"),
    ("tokenize", "TOKENIZE", -1, "host", np.nan, np.nan, np.nan, ""),
    ("sample", "SAMPLE", -1, "host", np.nan, np.nan, np.nan, ""),
]
_N_GRAPH_OPS = 5
_COMPUTE_NS = (1 * US, 10 * US, 20 * US, 10 * US, 4 * US)  # of each graph op, thread 0
_WAIT_NS = 1 * US  # of each graph op, thread 0; thread 1 computes as much less and waits as much more
_STEP_NS = 64 * US  # one step: graph 50 us + 4 us gap + sampling 10 us
_GRAPH_NS = 50 * US


def definitions() -> NDArray[Any]:
    """Returns the op definitions of the toy trace."""
    made = np.zeros(len(_DEFINITIONS), OP_DEFINITION)
    for node, (row, values) in enumerate(zip(made, _DEFINITIONS, strict=True)):
        name, op_type, layer, module, n_read, n_written, flops, weight = values
        row["node"], row["layer"], row["n_fused"] = node, layer, 2 if "+" in op_type else 1
        row["op"], row["op_type"], row["module"], row["weight"] = name, op_type, module, weight
        row["bytes_read"], row["bytes_written"], row["flops"] = n_read, n_written, flops
        row["dtype"], row["backend"], row["buffer"] = "f32", "CPU", "CPU_Mapped"
        row["src_dtype"] = ("q4_0", "f32", "")
        row["live_bytes"] = 1000 * (node + 1) if node < _N_GRAPH_OPS else 0  # 0: not known
        row["shape"], row["src_shape"] = (1, 1, 1, 64), ((1, 1, 64, 64), (1, 1, 1, 64), (0, 0, 0, 0))
    return made


class _Toy:
    """Lays runs one after the other on the time axis."""

    def __init__(self) -> None:
        self.rows: dict[ChunkKind, list[dict[str, Any]]] = {kind: [] for kind in ChunkKind}
        self.now_ns = 0
        self._phase(NONE, Phase.LOAD, 5_000 * US)

    def _phase(self, run: int, phase: Phase, duration_ns: int) -> None:
        self.rows[ChunkKind.PHASES].append(
            {"run": run, "phase": phase, "start_ns": self.now_ns, "duration_ns": duration_ns}
        )

    def _host_op(self, op: int, token: int, start_ns: int, duration_ns: int) -> None:
        self.rows[ChunkKind.OPS].append(
            {"start_ns": start_ns, "compute_ns": duration_ns, "op": op, "graph": NONE, "token": token}
        )

    def _graph(self, token: int, start_ns: int) -> None:
        graph = len(self.rows[ChunkKind.GRAPHS])
        self.rows[ChunkKind.GRAPHS].append(
            {"token": token, "n_threads": 2, "n_groups": 5, "start_ns": start_ns, "duration_ns": _GRAPH_NS}
        )
        for op, compute_ns in enumerate(_COMPUTE_NS):
            for thread in (0, 1):
                early = 500 if thread else 0
                self.rows[ChunkKind.OPS].append(
                    {
                        "start_ns": start_ns,
                        "compute_ns": compute_ns - early,
                        "wait_ns": _WAIT_NS + early,
                        "op": op,
                        "graph": graph,
                        "token": token,
                        "thread": thread,
                    }
                )
            start_ns += compute_ns + _WAIT_NS

    def run(self, *, warmup: bool = False, n_output: int = 3, end_of_text: bool = False) -> None:
        run, start_ns = len(self.rows[ChunkKind.RUNS]), self.now_ns
        first_token = len(self.rows[ChunkKind.TOKENS])
        self._phase(run, Phase.TOKENIZE, 20 * US)
        self._host_op(5, first_token, self.now_ns, 20 * US)
        self.now_ns += 20 * US
        n_steps = n_output + end_of_text
        self._phase(run, Phase.PREFILL, _STEP_NS)
        for index in range(n_steps):
            if index == 1:
                self._phase(run, Phase.DECODE, _STEP_NS * (n_steps - 1))
            begin = start_ns if index == 0 else self.now_ns
            self._graph(first_token + index, self.now_ns)
            self._host_op(6, first_token + index, self.now_ns + 54 * US, 10 * US)
            self.now_ns += _STEP_NS
            self.rows[ChunkKind.TOKENS].append(
                {
                    "run": run,
                    "index": index,
                    "phase": Phase.DECODE if index else Phase.PREFILL,
                    "flags": TOKEN_END_OF_TEXT if index == n_output else 0,
                    "token_id": 2 if index == n_output else 100 + index,
                    "n_tokens": 1 if index else 8,
                    "start_ns": begin,
                    "duration_ns": self.now_ns - begin,
                }
            )
        self.rows[ChunkKind.RUNS].append(
            {
                "run": run,
                "flags": RUN_WARMUP if warmup else 0,
                "stop_reason": StopReason.END_OF_TEXT if end_of_text else StopReason.LIMIT,
                "n_prompt": 8,
                "n_output": n_output,
                "n_threads": 2,
                "n_graphs": n_steps,
                "n_groups": 5 * n_steps,
                "n_records": 10 * n_steps,
                "start_ns": start_ns,
                "duration_ns": self.now_ns - start_ns,
                "prefill_ns": 50 * US,
                "peak_rss_bytes": float(1 << 20),
            }
        )
        self.rows[ChunkKind.PROMPTS] += [{"run": run, "token_id": token_id} for token_id in range(8)]


def toy_trace() -> bytes:
    """Returns a trace of a load (5 ms), one warm-up run and three measured ones, the last ended by end-of-text.

    A run: tokenise 20 us; then steps of 64 us, the first of them prefill (8 prompt tokens, 50 us): a graph of 50 us
    whose five ops take 1, 10, 20, 10 and 4 us of compute and 1 us of wait each on thread 0 (so exactly 50 us), 0.5 us
    less compute and more wait on thread 1; then a gap of 4 us, then sampling 10 us. Three output tokens: 100, 101, 102.
    """
    toy = _Toy()
    toy.now_ns += 5_000 * US
    toy.run(warmup=True)
    for end_of_text in (False, False, True):
        toy.run(end_of_text=end_of_text)
    # off/on: decode 0.990 .. 1.000 with median 0.995; prefill one pair only
    toy.rows[ChunkKind.OVERHEAD] = [
        {"phase": Phase.DECODE, "on_first": n % 2, "n_tokens": 1, "off_ns": 990_000 + 1_000 * n, "on_ns": 1_000_000}
        for n in range(11)
    ] + [{"phase": Phase.PREFILL, "n_tokens": 8, "off_ns": 98, "on_ns": 100}]
    builder = TraceBuilder(start_wall_ns=1_700_000_000_000_000_000)
    builder.metadata(METADATA)
    builder.records(ChunkKind.OP_DEFINITIONS, definitions())
    for kind in RECORDS:
        if toy.rows[ChunkKind(kind)]:
            builder.records(ChunkKind(kind), rows_of(ChunkKind(kind), toy.rows[ChunkKind(kind)]))
    return builder.finish()


def large_trace(file: BinaryIO, n_records: int, *, n_definitions: int = 600, n_threads: int = 2) -> None:
    """Writes a trace of `n_records` op records: two runs, the first a warm-up; steps of `n_definitions` ops."""
    per_graph = n_definitions * n_threads
    n_graphs = -(-n_records // per_graph)
    n_tokens = n_graphs
    builder = TraceBuilder(file)
    builder.metadata(METADATA)
    defs = np.zeros(n_definitions, OP_DEFINITION)
    number = np.arange(n_definitions)
    defs["node"], defs["layer"] = number, number % 32 - 1
    defs["op"] = [f"op-{n}" for n in number]
    defs["op_type"] = np.array([b"MUL_MAT", b"ADD", b"RMS_NORM", b"ROPE", b"SOFT_MAX"])[number % 5]
    defs["module"] = np.array([b"attention", b"ffn"])[number % 2]
    defs["flops"], defs["bytes_read"], defs["bytes_written"] = 100.0, 10.0, 5.0
    builder.records(ChunkKind.OP_DEFINITIONS, defs)
    run_row = {"stop_reason": StopReason.LIMIT, "n_prompt": 8, "n_output": n_tokens // 2, "n_threads": n_threads}
    runs = [{"run": run, "flags": RUN_WARMUP if run == 0 else 0, "prefill_ns": 1000, **run_row} for run in (0, 1)]
    builder.records(ChunkKind.RUNS, rows_of(ChunkKind.RUNS, runs))
    tokens = np.zeros(n_tokens, RECORDS[ChunkKind.TOKENS])
    token = np.arange(n_tokens)
    step_ns = n_definitions * 1_000
    tokens["run"], tokens["start_ns"] = token >= n_tokens // 10, token * step_ns
    tokens["index"] = np.where(tokens["run"] == 0, token, token - n_tokens // 10)
    tokens["phase"] = np.where(tokens["index"] == 0, Phase.PREFILL, Phase.DECODE)
    tokens["duration_ns"] = step_ns
    builder.records(ChunkKind.TOKENS, tokens)
    graphs = np.zeros(n_graphs, RECORDS[ChunkKind.GRAPHS])
    graphs["token"], graphs["n_groups"], graphs["start_ns"] = token, n_definitions, token * step_ns
    graphs["duration_ns"], graphs["n_threads"] = step_ns, n_threads
    builder.records(ChunkKind.GRAPHS, graphs)
    block = MAX_CHUNK_BYTES // OP.itemsize
    for start in range(0, n_records, block):
        row = np.arange(start, min(start + block, n_records))
        made = np.zeros(len(row), OP)
        made["graph"], made["op"] = row // per_graph, row % per_graph % n_definitions
        made["token"], made["thread"] = made["graph"], row % per_graph // n_definitions
        made["compute_ns"], made["wait_ns"] = 900, 100
        made["start_ns"] = made["graph"].astype(np.int64) * step_ns + made["op"].astype(np.int64) * 1_000
        builder.records(ChunkKind.OPS, made)
    builder.finish()


def write_golden(folder: Path) -> None:
    """Writes the file of the newest version and what reading it must give."""
    from melt_core.trace import Trace

    data = toy_trace()
    name = f"v{TRACE_MAJOR}_{TRACE_MINOR}"
    (folder / f"{name}.melt").write_bytes(data)
    trace = Trace.from_bytes(data)
    expected = {
        "summary": trace.summary().to_json(),
        "key_averages": {key: trace.key_averages(key).to_dicts() for key in ("op_type", "layer", "phase", "thread")},
        "tokens": trace.tokens.to_dicts(),
        "first_ops": trace.ops.head(4).to_dicts(),
    }
    text = json.dumps(expected, indent=1, allow_nan=True).replace("NaN", "null")
    (folder / f"{name}.json").write_text(text + "\n")


if __name__ == "__main__":
    write_golden(Path(sys.argv[1]))
