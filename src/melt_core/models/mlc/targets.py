"""The machines that a model can be compiled for, and what kernels may use of each.

Levels of x86-64 are those of its psABI; what goes beyond them is switched on by name, only where this machine has it.
"""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from melt_core.errors import InvalidArgumentError

#: Features as Linux names them -> as LLVM does: those of two levels, and what is used beyond.
_LEVEL_3 = {"bmi1": "bmi"} | {name: name for name in ("avx", "avx2", "bmi2", "f16c", "fma", "movbe")}
_LEVEL_4 = _LEVEL_3 | {name: name for name in ("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")}
_EXTENSIONS = {
    "avx512_vnni": "avx512vnni",
    "avx512_bf16": "avx512bf16",
    "amx_tile": "amx-tile",
    "amx_bf16": "amx-bf16",
}
_AMX = {"amx_tile", "amx_bf16", "avx512_bf16"}


@dataclass(frozen=True)
class Machine:
    """What code is made for.

    `lanes` is how many float32 a vector register holds, `n_registers` how many of those there are. `vnni`: products of
    bytes, four at a time, into 32 bits (AVX512-VNNI). `amx`: products of bfloat16 tiles. `shared` tells whether the
    library is a shared one, and not an archive for an app to link. `needs` goes into the library's metadata: all that
    the code may use beyond what every processor of the triple has, that of `cpu` and `features`, as LLVM names it.
    """

    name: str
    triple: str
    lanes: int
    n_registers: int
    cpu: str = ""
    features: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    vnni: bool = False
    amx: bool = False
    shared: bool = True
    linker: str = ""

    def to_tvm(self) -> dict[str, object]:
        """Returns TVM's description of the target."""
        found: dict[str, object] = {"kind": "llvm", "mtriple": self.triple}
        if self.cpu:
            found["mcpu"] = self.cpu
        if self.features:
            found["mattr"] = [f"+{feature}" for feature in self.features]
        return found

    @property
    def is_host(self) -> bool:
        """Whether code for it runs here."""
        return self.name == "host"


_OTHERS = (
    Machine("aarch64-linux-gnu", "aarch64-linux-gnu", 4, 32, linker="aarch64-linux-gnu-g++"),
    Machine("aarch64-linux-android", "aarch64-linux-android", 4, 32, shared=False),
    Machine("arm64-apple-ios", "arm64-apple-ios", 4, 32, shared=False),
)

#: Names of what can be compiled for.
TARGETS = ("host", *(machine.name for machine in _OTHERS))


def machine_of(target: str, linker: str = "") -> Machine:
    """Returns the machine of a target's name; with a linker of the caller's, its library is a shared one.

    Raises:
        InvalidArgumentError: There is no such target.
    """
    for machine in _OTHERS:
        if machine.name == target:
            return replace(machine, linker=linker, shared=True) if linker else machine
    if target == "host" and linker:
        raise InvalidArgumentError(
            "for this machine the library is linked by the compiler that is installed: no linker"
        )
    if target != "host":
        raise InvalidArgumentError(f"there is no target {target!r}: choose one of {', '.join(TARGETS)}")
    system = {"darwin": "apple-darwin", "android": "linux-android"}.get(sys.platform, "linux-gnu")
    if platform.machine() in ("aarch64", "arm64"):
        arch = "arm64" if system == "apple-darwin" else "aarch64"
        return Machine("host", f"{arch}-{system}", 4, 32)
    return x86_machine(f"x86_64-{system}", _cpu_flags())


def x86_machine(triple: str, flags: set[str]) -> Machine:
    """Returns the machine with these features, named as in ``/proc/cpuinfo``."""
    if flags >= _LEVEL_4.keys():
        extensions = tuple(name for flag, name in _EXTENSIONS.items() if flag in flags)
        needs = (*_LEVEL_4.values(), *extensions)
        vnni, amx = "avx512_vnni" in flags, flags >= _AMX and "linux" in triple
        return Machine("host", triple, 16, 32, "x86-64-v4", extensions, needs, vnni=vnni, amx=amx)
    if flags >= _LEVEL_3.keys():
        return Machine("host", triple, 8, 16, "x86-64-v3", needs=tuple(_LEVEL_3.values()))
    return Machine("host", triple, 4, 16, "x86-64")


def _cpu_flags() -> set[str]:
    """Returns the features that the kernel of the system lists; none where it does not say."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return set()
    for line in text.splitlines():
        if line.startswith("flags"):
            return set(line.partition(":")[2].split())
    return set()
