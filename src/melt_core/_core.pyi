"""
The compiled core of melt_core. Private: use the names in melt_core.
"""
from __future__ import annotations
import collections.abc
import typing
__all__: list[str] = ['AbsentCeiling', 'Ceiling', 'CeilingKind', 'CeilingResult', 'DeviceMemory', 'GgufHeader', 'GgufTensor', 'MemoryForecast', 'MemoryPart', 'ModelInfo', 'Profiler', 'RunOptions', 'RunResult', 'Session', 'Tokenizer', 'build_json', 'counter_is_invariant', 'counters_json', 'device_json', 'device_memory', 'error_kinds', 'levels', 'measure_ceilings', 'predict_memory', 'read_gguf', 'record_layouts', 'runtime_details', 'runtime_names', 'sensor_names', 'sensors_json']
class MemoryPart:
    """
    What a session holds of one kind in one kind of buffer.
    """
    @property
    def buffer(self) -> str:
        ...
    @property
    def bytes(self) -> int:
        ...
    @property
    def category(self) -> str:
        ...
class MemoryForecast:
    """
    What a session would hold.
    """
    @property
    def n_ctx(self) -> int:
        ...
    @property
    def parts(self) -> list[MemoryPart]:
        ...
    @property
    def process_reserved_bytes(self) -> float:
        ...
    @property
    def process_resident_bytes(self) -> float:
        ...
class DeviceMemory:
    """
    Memory that this process may use.
    """
    @property
    def available_bytes(self) -> int:
        """
        2**64 - 1: the system does not say.
        """
    @property
    def source(self) -> str:
        """
        The file that decided, or why there is none.
        """
    @property
    def total_bytes(self) -> int:
        """
        2**64 - 1: the system does not say.
        """
class GgufTensor:
    """
    One tensor of a GGUF file.
    """
    @property
    def name(self) -> str:
        ...
    @property
    def offset_bytes(self) -> int:
        ...
    @property
    def shape(self) -> list[int]:
        """
        Slowest axis first.
        """
    @property
    def size_bytes(self) -> int:
        ...
    @property
    def type(self) -> str:
        """
        ggml's name of the type, such as q4_1.
        """
class GgufHeader:
    """
    The header of a GGUF file.
    """
    @property
    def file_bytes(self) -> int:
        ...
    @property
    def metadata(self) -> list[tuple[str, str]]:
        """
        (key, value) pairs as text, in file order.
        """
    @property
    def tensors(self) -> list[GgufTensor]:
        ...
    @property
    def version(self) -> int:
        ...
class ModelInfo:
    """
    What a session has loaded.
    """
    @property
    def architecture(self) -> str:
        ...
    @property
    def memory(self) -> list[MemoryPart]:
        """
        What the session holds, as the runtime reports it.
        """
    @property
    def n_batch(self) -> int:
        ...
    @property
    def n_ctx(self) -> int:
        ...
    @property
    def n_ctx_train(self) -> int:
        ...
    @property
    def n_layer(self) -> int:
        ...
    @property
    def n_params(self) -> int:
        ...
    @property
    def n_vocab(self) -> int:
        ...
    @property
    def name(self) -> str:
        ...
    @property
    def quantization(self) -> str:
        ...
    @property
    def size_bytes(self) -> int:
        ...
class Tokenizer:
    """
    A model file's vocabulary.
    """
    def __init__(self, runtime: str, path: bytes) -> None:
        ...
    def decode(self, ids: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex]) -> bytes:
        """
        Text of token ids, as bytes: a token may end inside a character.
        """
    def encode(self, text: str, add_special: bool, parse_special: bool) -> list[int]:
        """
        Token ids of a text.
        """
class Session:
    """
    Loaded model + context + KV cache. One run at a time.
    """
    def __init__(self, runtime: str, path: bytes, *, n_ctx: typing.SupportsInt | typing.SupportsIndex, n_batch: typing.SupportsInt | typing.SupportsIndex, n_ubatch: typing.SupportsInt | typing.SupportsIndex, n_threads: typing.SupportsInt | typing.SupportsIndex, use_mmap: bool, check_tensors: bool, repack: bool, kv_type: str, runtime_path: str, model_lib: str, text: typing.Any, on_progress: collections.abc.Callable[[float], None] | None) -> None:
        ...
    def cancel(self) -> None:
        """
        Ends the run under way, if any, between two ops. Call from any thread.
        """
    def close(self) -> None:
        """
        Frees the model; waits for a run under way. Calling it twice is harmless.
        """
    def decode(self, ids: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex]) -> bytes:
        """
        Text of token ids, as bytes.
        """
    def encode(self, text: str, add_special: bool, parse_special: bool) -> list[int]:
        """
        Token ids of a text.
        """
    def format_chat(self, messages: collections.abc.Sequence[tuple[str, str]]) -> str:
        """
        (role, content) pairs in the model's own chat format.
        """
    @property
    def info(self) -> ModelInfo:
        ...
class RunOptions:
    """
    What a run is to do.
    """
    def __init__(self, *, prompt: str, parse_special: bool, chat: bool, prompt_ids: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], prompt_tokens: typing.SupportsInt | typing.SupportsIndex | None, max_tokens: typing.SupportsInt | typing.SupportsIndex, ignore_eos: bool, repeats: typing.SupportsInt | typing.SupportsIndex, warmup: typing.SupportsInt | typing.SupportsIndex, temperature: typing.SupportsFloat | typing.SupportsIndex, top_k: typing.SupportsInt | typing.SupportsIndex, top_p: typing.SupportsFloat | typing.SupportsIndex, seed: typing.SupportsInt | typing.SupportsIndex, overhead_budget_s: typing.SupportsFloat | typing.SupportsIndex, forced_ids: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], keep_logits: bool, idle_s: typing.SupportsFloat | typing.SupportsIndex, marker: bool) -> None:
        ...
class RunResult:
    """
    What a run gave; its times are in the trace.
    """
    @property
    def cancelled(self) -> bool:
        ...
    @property
    def n_runs(self) -> int:
        ...
    @property
    def output_ids(self) -> list[int]:
        ...
    @property
    def output_text(self) -> bytes:
        ...
    @property
    def prompt_ids(self) -> list[int]:
        ...
class Profiler:
    """
    Measures runs of one session into one trace.
    """
    def __init__(self, session: Session, path: bytes, *, levels: typing.SupportsInt | typing.SupportsIndex, metadata_json: str, log_bytes: typing.SupportsInt | typing.SupportsIndex, watch_switches: bool, sensors: collections.abc.Sequence[str], sensor_hz: typing.SupportsFloat | typing.SupportsIndex) -> None:
        ...
    def finish(self) -> bool:
        """
        Closes the trace; False if nothing was measured, and so nothing written.
        """
    def mark(self) -> None:
        """
        Makes pulses of load for a power meter, with the GIL released.
        """
    def refuse(self) -> None:
        """
        Notes that something was refused before run() or its like was called.
        """
    def run(self, options: RunOptions, on_repetition: collections.abc.Callable[[int, int], None] | None) -> RunResult:
        """
        Runs warm-up and repetitions with the GIL released.
        """
    def sample_idle(self, seconds: typing.SupportsFloat | typing.SupportsIndex) -> None:
        """
        Reads the sensors for so long while nothing runs, with the GIL released.
        """
class CeilingKind:
    """
    What a ceiling limits.
    
    Members:
    
      read_bandwidth
    
      flops
    """
    __members__: typing.ClassVar[dict[str, CeilingKind]]
    flops: typing.ClassVar[CeilingKind]
    read_bandwidth: typing.ClassVar[CeilingKind]
    @typing.overload
    def __eq__(self, other: CeilingKind) -> bool:
        ...
    @typing.overload
    def __eq__(self, other: typing.Any) -> bool:
        ...
    def __getstate__(self) -> int:
        ...
    def __hash__(self) -> int:
        ...
    def __index__(self) -> int:
        ...
    def __init__(self, value: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    def __int__(self) -> int:
        ...
    @typing.overload
    def __ne__(self, other: CeilingKind) -> bool:
        ...
    @typing.overload
    def __ne__(self, other: typing.Any) -> bool:
        ...
    def __repr__(self) -> str:
        ...
    def __setstate__(self, state: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    def __str__(self) -> str:
        ...
    @property
    def name(self) -> str:
        ...
    @property
    def value(self) -> int:
        ...
class Ceiling:
    """
    One measured ceiling, in bytes/s or flop/s.
    """
    @property
    def best(self) -> float:
        ...
    @property
    def kind(self) -> CeilingKind:
        ...
    @property
    def median(self) -> float:
        ...
    @property
    def n_rounds(self) -> int:
        ...
    @property
    def n_threads(self) -> int:
        ...
    @property
    def name(self) -> str:
        ...
    @property
    def working_set_bytes(self) -> int:
        """
        Of all threads; 0 for arithmetic.
        """
class AbsentCeiling:
    """
    One that cannot be measured here.
    """
    @property
    def kind(self) -> CeilingKind:
        ...
    @property
    def n_threads(self) -> int:
        """
        0: whatever their number.
        """
    @property
    def name(self) -> str:
        ...
    @property
    def reason(self) -> str:
        ...
class CeilingResult:
    """
    All of them.
    """
    @property
    def absent(self) -> list[AbsentCeiling]:
        ...
    @property
    def ceilings(self) -> list[Ceiling]:
        ...
    @property
    def notes(self) -> list[str]:
        ...
    @property
    def pinned(self) -> bool:
        ...
    @property
    def read_instructions(self) -> str:
        ...
def build_json() -> str:
    """
    How this module was built, as a JSON object.
    """
def counter_is_invariant() -> bool:
    """
    Whether the cycle counter runs at one rate.
    """
def counters_json() -> str:
    """
    What can be counted per op here, as a JSON object.
    """
def device_json() -> str:
    """
    What this machine is, as a JSON object.
    """
def device_memory(root: str) -> DeviceMemory:
    """
    Memory of this device or of its cgroup.
    """
def error_kinds() -> dict[str, int]:
    """
    Name -> number of each kind, so that a test can compare them with melt_core.errors.
    """
def levels() -> dict[str, int]:
    """
    What can be recorded, and its bit in the mask.
    """
def measure_ceilings(*, thread_counts: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], pin_threads: bool, huge_pages: bool, sequential_reads: bool, measurement_s: typing.SupportsFloat | typing.SupportsIndex, max_memory_bytes: typing.SupportsInt | typing.SupportsIndex, on_progress: collections.abc.Callable[[str, float], None] | None) -> CeilingResult:
    """
    Measures bandwidth and arithmetic ceilings with the GIL released. What on_progress raises ends it.
    """
def predict_memory(runtime: str, path: bytes, *, runtime_path: str, n_ctx: typing.SupportsInt | typing.SupportsIndex, n_batch: typing.SupportsInt | typing.SupportsIndex, n_ubatch: typing.SupportsInt | typing.SupportsIndex, use_mmap: bool, repack: bool, kv_type: str) -> MemoryForecast:
    """
    Sizes of what loading would allocate, from the file's header.
    """
def read_gguf(path: bytes) -> GgufHeader:
    """
    Reads and checks the header of a GGUF file.
    """
def record_layouts() -> dict[str, tuple[int, list[tuple[str, int, int]]]]:
    """
    name -> (bytes of a record, [(field, offset, bytes), ...]).
    """
def runtime_details(name: str) -> list[tuple[str, str]]:
    """
    Version, commit and CPU kernels of a runtime, as (key, value) pairs.
    """
def runtime_names() -> list[str]:
    """
    Names of the runtimes compiled into this build.
    """
def sensor_names() -> list[str]:
    """
    Every kind of sensor that this version knows.
    """
def sensors_json() -> str:
    """
    What each of them finds on this machine, or why it is absent: a JSON array.
    """
