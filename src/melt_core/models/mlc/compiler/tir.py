"""Words for writing kernels with TVM's IR builder: vectors, registers, arguments.

A kernel is a Python function that emits statements; loops over Python numbers unroll, `T.serial` and `T.parallel` do
not. Buffers are addressed flat, row-major. A value that changes lives in a local buffer, which LLVM keeps in registers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T  # noqa: N812 (the name that TVM gives it)


def kernel(body: Callable[[], None]) -> Any:
    """Returns the function whose arguments and statements `body` emits."""
    with IRBuilder() as builder, T.prim_func(is_private=True, s_tir=True):
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        body()
    return builder.get()


def argument(name: str, shape: Sequence[Any], dtype: str, *, offset: bool = False) -> Any:
    """Declares a tensor argument and returns its buffer; with `offset`, one that may begin within its memory."""
    handle = T.arg(name, T.handle())
    options = {"elem_offset": T.int32()} if offset else {}
    return T.match_buffer(handle, tuple(shape), dtype, **options)


class Flat:
    """A buffer that is addressed by one index, row-major: the one of its last axis, which may run on into other rows.

    (A declared view with one axis would say the same, but TVM 0.27 cannot rename functions with one, as it does for
    libraries that an app links.)
    """

    def __init__(self, buffer: Any) -> None:
        self.buffer, self.dtype = buffer, buffer.dtype
        self._first = [0] * (len(buffer.shape) - 1)

    def place(self, index: Any) -> list[Any]:
        """Returns the buffer's own indices of an index."""
        return [*self._first, index]


def flat(*buffers: Any) -> list[Flat]:
    """Returns buffers to be addressed by one index; they begin where their memory does."""
    return [Flat(buffer) for buffer in buffers]


def place_of(buffer: Any, index: Any, lanes: int, stride: Any = 1) -> tuple[Any, list[Any]]:
    """Returns the buffer and the indices of `lanes` values."""
    index = index if lanes == 1 else tirx.Ramp(index, stride, lanes)
    return (buffer.buffer, buffer.place(index)) if isinstance(buffer, Flat) else (buffer, [index])


def blocks(name: str) -> Any:
    """Opens a block, in which buffers can be allocated. Use in a ``with`` statement."""
    return _Block(name)


class _Block:
    def __init__(self, name: str) -> None:
        self._frame = T.sblock(name)

    def __enter__(self) -> None:
        self._frame.__enter__()
        T.reads()
        T.writes()

    def __exit__(self, *error: Any) -> None:
        self._frame.__exit__(*error)


def local(size: int, dtype: str) -> Any:
    """Allocates registers, or a few values on the stack."""
    return T.sblock_alloc_buffer((size,), dtype, scope="local")


def workspace(size: Any, dtype: str) -> Any:
    """Allocates memory that all threads of the kernel see."""
    return T.sblock_alloc_buffer((size,), dtype)


def const(value: float, dtype: str) -> Any:
    """Returns a constant."""
    return tirx.const(value, dtype)


def vector_type(dtype: str, lanes: int) -> str:
    """Returns the name of a vector type."""
    return dtype if lanes == 1 else f"{dtype}x{lanes}"


def splat(value: Any, lanes: int, dtype: str = "float32") -> Any:
    """Returns a vector whose lanes are all `value`."""
    value = const(value, dtype) if isinstance(value, (int, float)) else value
    return value if lanes == 1 else tirx.Broadcast(value, lanes)


def cast(value: Any, dtype: str, lanes: int) -> Any:
    """Returns a value of `lanes` in another type."""
    wanted = vector_type(dtype, lanes)
    return (
        value if str(value.dtype if hasattr(value, "dtype") else value.ty.dtype) == wanted else tirx.Cast(wanted, value)
    )


def load(buffer: Any, index: Any, lanes: int = 1, *, stride: Any = 1) -> Any:
    """Returns `lanes` values of a flat buffer, `stride` apart."""
    return tirx.BufferLoad(*place_of(buffer, index, lanes, stride))


def load_f32(buffer: Any, index: Any, lanes: int = 1, *, stride: Any = 1) -> Any:
    """Returns `lanes` values of a flat buffer as float32."""
    value = load(buffer, index, lanes, stride=stride)
    return value if buffer.dtype == "float32" else tirx.Cast(vector_type("float32", lanes), value)


def store(buffer: Any, index: Any, value: Any, lanes: int = 1) -> None:
    """Writes float32 lanes, or values of the buffer's own type, to a flat buffer."""
    whole, place = place_of(buffer, index, lanes)
    T.buffer_store(whole, value, place)


def store_f32(buffer: Any, index: Any, value: Any, lanes: int = 1) -> None:
    """Writes float32 lanes to a flat buffer in its type."""
    if buffer.dtype != "float32":
        value = tirx.Cast(vector_type(buffer.dtype, lanes), value)
    store(buffer, index, value, lanes)


def shuffle(value: Any, picks: Sequence[int], lanes: int) -> Any:
    """Returns the picked ones of a vector's lanes."""
    copies = -(-len(picks) // lanes)  # TVM wants no more picks than lanes
    return tirx.Shuffle([value] * copies, [const(pick, "int32") for pick in picks])


def reinterpret(value: Any, dtype: str) -> Any:
    """Returns the same bits as another type."""
    return tirx.reinterpret(dtype, value)


def pure(dtype: str, intrinsic: str, *operands: Any) -> Any:
    """Calls an intrinsic of LLVM that only computes."""
    return tirx.call_llvm_pure_intrin(dtype, intrinsic, *operands)


def effect(intrinsic: str, *operands: Any) -> None:
    """Calls an intrinsic of LLVM for what it does."""
    T.evaluate(tirx.call_llvm_intrin("void", intrinsic, *operands))


def prefetch(buffer: Flat, index: Any) -> None:
    """Asks for the cache line of a place in a buffer, which need not be within it."""
    place = buffer.buffer.access_ptr("r", offset=index)
    T.evaluate(
        tirx.call_intrin("void", "tirx.prefetch", place, const(0, "int32"), const(3, "int32"), const(1, "int32"))
    )


def sum_lanes(value: Any, lanes: int, down_to: int = 1) -> Any:
    """Returns the sum of the float32 lanes, added as a tree, in as many lanes as are wanted."""
    while lanes > down_to:
        lanes //= 2
        value = shuffle(value, range(lanes), 2 * lanes) + shuffle(value, range(lanes, 2 * lanes), 2 * lanes)
    return value


def max_lanes(value: Any, lanes: int) -> Any:
    """Returns the largest lane."""
    while lanes > 1:
        lanes //= 2
        value = tirx.max(shuffle(value, range(lanes), 2 * lanes), shuffle(value, range(lanes, 2 * lanes), 2 * lanes))
    return value


def exp(value: Any, lanes: int) -> Any:
    """Returns e^x of float32 lanes to about 2 units in the last place; below -87 it is 0 or close to it.

    2^n by its bits, times a polynomial of the rest within ln 2 / 2 (Cephes expf, S. Moshier).
    """

    def lane(number: float) -> Any:
        return splat(number, lanes)

    x = tirx.max(tirx.min(value, lane(88.0)), lane(-87.3))
    x = T.Bind(x)
    n = T.Bind(pure(vector_type("float32", lanes), "llvm.rint", x * lane(1.44269504088896341)))
    r = T.Bind(x - n * lane(0.693359375) + n * lane(2.12194440e-4))
    p = lane(1.9875691500e-4)
    for c in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1):
        p = p * r + lane(c)
    power = reinterpret(
        (tirx.Cast(vector_type("int32", lanes), n) + splat(127, lanes, "int32")) << splat(23, lanes, "int32"),
        vector_type("float32", lanes),
    )
    return T.Bind((p * (r * r) + r + lane(1.0)) * power)


def segments(size: int, lanes: int) -> list[tuple[int, int, int]]:
    """Splits 0..size into (first, how many vectors, lanes of each), the widest first."""
    found, first = [], 0
    while first < size:
        count = (size - first) // lanes
        if count:
            found.append((first, count, lanes))
            first += count * lanes
        lanes //= 2
    return found
