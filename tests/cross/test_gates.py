"""What can be said of other machines' code without them: it compiles, and its ELF files ask for what is there."""

from __future__ import annotations

import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from fakes.needs import lacking

from .conftest import BUILDS, REPOSITORY, TIMEOUT_S, built

PAGE_BYTES = 0x4000  # of Android 15 devices
STACK_BYTES = 8 << 20
GLIBC = {"libc.so.6", "libm.so.6", "libpthread.so.0", "libdl.so.2", "ld-linux-aarch64.so.1"}
#: ggml's sources with branches for the platform.
GGML_C = ("ggml/src/ggml.c", "ggml/src/ggml-cpu/ggml-cpu.c", "ggml-cpu/arch/arm/quants.c")
#: Ours with branches for the platform, or on headers that differ between platforms.
OURS = (
    "cpp/src/ceilings/kernels_arm64.cpp",
    "cpp/src/clock.cpp",
    "cpp/src/cpu_features.cpp",
    "cpp/src/device_memory.cpp",
    "cpp/src/durable.cpp",
    "cpp/src/environment.cpp",
    "cpp/src/request.cpp",
    "cpp/src/c_api.cpp",
    "cpp/src/run.cpp",
    "cpp/src/sensors/memory_account.cpp",
    "cpp/src/sensors/process_memory.cpp",
    "cpp/src/sensors/sampler.cpp",
    "cpp/src/sha256.cpp",
    "cpp/src/trace/writer.cpp",
    "cpp/agent/app.cpp",
    "cpp/agent/device.cpp",
    "cpp/agent/mailbox.cpp",
    "cpp/agent/main.cpp",
    "cpp/agent/measure.cpp",
    "cpp/agent/process.cpp",
    "cpp/agent/runs.cpp",
    "cpp/agent/work_dir.cpp",
)
#: What bionic has only since a later Android than Termux builds for (7, API level 24): bionic/libc/libc.map.txt. Of
#: the functions there, those that one could think of here.
TOO_NEW = """
    mallopt nl_langinfo pthread_getname_np futimes lutimes shmat shmget semop strtod_l strtof_l strtol_l strtoul_l
    sync_file_range aligned_alloc fexecve getentropy getlogin_r getrandom glob globfree iconv posix_spawn posix_spawnp
    swab syncfs getloadavg reallocarray timespec_get memfd_create mlock2 pthread_cond_clockwait renameat2 sem_clockwait
    statx call_once mtx_lock thrd_create ffsl ffsll mallinfo2 pidfd_open process_madvise backtrace backtrace_symbols
    preadv2 pwritev2 close_range copy_file_range memset_explicit pthread_getaffinity_np pthread_setaffinity_np
    qsort_r"""
#: As tools/cross.py: what is compared is the script.
COMPILER_CACHE = {"CCACHE_COMPILERCHECK": "content", "CCACHE_COMPILERTYPE": "clang"}
MACH_O_ARM64 = bytes.fromhex("cffaedfe0c000001")


def readelf(*arguments: str) -> str:
    """Returns what readelf prints."""
    return subprocess.run(["readelf", "-W", *arguments], capture_output=True, text=True, check=True).stdout


def needed(path: Path) -> set[str]:
    """Returns the shared libraries that an ELF file asks for."""
    return set(re.findall(r"\(NEEDED\).*\[(.+)\]", readelf("-d", str(path))))


def newest_glibc(path: Path) -> tuple[int, ...]:
    """Returns the newest version of glibc whose symbols an ELF file asks for."""
    versions = re.findall(r"GLIBC_([0-9.]+)", readelf("-V", str(path)))
    return max(tuple(map(int, version.split("."))) for version in versions)


def test_android_agent_asks_for_nothing() -> None:
    agent = built(BUILDS / "android-static/melt-agent", "android-static")
    assert needed(agent) == set()
    assert "INTERP" not in readelf("-l", str(agent))
    assert "GLIBC" not in readelf("-V", str(agent))
    assert b"GLIBC_" not in agent.read_bytes()
    segments = readelf("-l", str(agent))
    alignments = re.findall(r"^\s+LOAD.* (0x[0-9a-f]+)$", segments, re.MULTILINE)
    assert alignments
    assert all(int(alignment, 16) % PAGE_BYTES == 0 for alignment in alignments)
    stack = re.search(r"GNU_STACK\s+\S+ \S+ \S+ \S+ (0x[0-9a-f]+)", segments)
    assert stack
    assert int(stack[1], 16) == STACK_BYTES  # without it musl's threads have 128 KB


def test_jetson_agent_asks_for_an_old_glibc_only() -> None:
    agent = built(BUILDS / "jetson/melt-agent", "jetson")
    assert needed(agent) <= GLIBC
    assert newest_glibc(agent) <= (2, 28)


def test_wheel_asks_for_an_old_glibc_only(tmp_path: Path) -> None:
    wheels = list((BUILDS / "wheel/dist").glob("*.whl"))
    built(wheels[0] if wheels else BUILDS / "wheel/dist/melt_core.whl", "wheel")
    with zipfile.ZipFile(wheels[0]) as wheel:
        names = [name for name in wheel.namelist() if name.endswith((".so", "melt-agent"))]
        wheel.extractall(tmp_path)
    assert len(names) == 2
    for name in names:
        assert readelf("-h", str(tmp_path / name)).count("AArch64") == 1
        assert needed(tmp_path / name) <= GLIBC
        assert newest_glibc(tmp_path / name) <= (2, 28)
    assert any(name.endswith("-aarch64-linux-gnu.so") for name in names)


@pytest.fixture(scope="module")
def zig() -> Path:
    """The compiler that the cross builds used."""
    commands = json.loads(built(BUILDS / "android-static/compile_commands.json", "android-static").read_text())
    tool = next(part for part in shlex.split(commands[0]["command"]) if part.endswith(("/zig-cc", "/zig-c++")))
    program = Path(re.findall(r'exec "([^"]+)"', Path(tool).read_text())[-1])
    if not program.is_file():
        lacking(f"{program} is gone: run `make cross PRESET=android-static`")
    return program


@pytest.fixture(scope="module")
def compilers(zig: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """That compiler's commands for C and C++, through ccache where it is installed."""
    ccache = shutil.which("ccache")
    folder = tmp_path_factory.mktemp("compilers")
    commands = {}
    for language in ("cc", "c++"):  # a script each: ccache takes a second word for a file
        script = folder / f"zig-{language}"
        script.write_text(f'#!/bin/sh\nexec "{zig}" {language} "$@"\n')
        script.chmod(0o755)
        commands[language] = [*([ccache] if ccache else []), str(script)]
    return commands


def flags_of(source: str) -> tuple[Path, list[str]]:
    """Returns a source of the android-static build, and its defines and include folders."""
    commands = json.loads((BUILDS / "android-static/compile_commands.json").read_text())
    entry = next(entry for entry in commands if entry["file"].endswith(source))
    parts = shlex.split(entry["command"])
    kept = [part for part in parts if part.startswith(("-D", "-I", "-std="))]
    for before, after in itertools.pairwise(parts):
        if before == "-isystem":
            kept += [before, after]
    folder = Path(entry["directory"])
    absolute = [part if not part.startswith("-I") else f"-I{(folder / part[2:]).resolve()}" for part in kept]
    return folder / entry["file"], absolute


def compile_object(command: list[str], source: Path, target: Path) -> bytes:
    """Returns the object file."""
    done = subprocess.run(
        [*command, "-c", "-O1", "-g0", "-w", "-o", str(target), str(source)],
        cwd=BUILDS / "android-static",
        env={**os.environ, "CCACHE_BASEDIR": str(REPOSITORY), **COMPILER_CACHE},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, f"{source}: {done.stderr[-2000:]}"
    return target.read_bytes()


def linux_headers(library: Path) -> list[str]:
    """Returns flags for musl's headers: the Android target comes without any."""
    names = ("aarch64-linux-musl", "generic-musl", "aarch64-linux-any", "any-linux-any")
    folders = [library / "include", *(library / "libc/include" / name for name in names)]
    return ["-nostdinc", *(part for folder in folders for part in ("-isystem", str(folder)))]


def test_ggml_compiles_with_android_defined(zig: Path, compilers: dict[str, list[str]], tmp_path: Path) -> None:
    """Its C sources, as objects that are never linked: the headers are musl's, not bionic's."""
    cpu = "-mcpu=generic+v8_2a+dotprod+fullfp16"
    for source in GGML_C:
        path, flags = flags_of(source)
        command = [*compilers["cc"], "-target", "aarch64-linux-android.28", cpu, *linux_headers(zig.parent / "lib")]
        code = compile_object([*command, *flags], path, tmp_path / "android.o")
        assert code[:4] == b"\x7fELF"


def test_our_sources_compile_with_android_defined(compilers: dict[str, list[str]], tmp_path: Path) -> None:
    """The branches that bionic takes, on musl's headers."""
    bionic = ["-D__ANDROID__", "-D__ANDROID_API__=28", "-D__BIONIC__"]
    for source in OURS:
        path, flags = flags_of(source)
        command = [*compilers["c++"], "-target", "aarch64-linux-musl", *bionic, *flags]
        assert compile_object(command, path, tmp_path / "ours.o")[:4] == b"\x7fELF"


@pytest.mark.parametrize("library", ["libmelt.a", "libmelt_agent.a"])
def test_we_call_nothing_that_termux_lacks(library: str) -> None:
    symbols = readelf("-s", str(built(BUILDS / "android-static" / library, "android-static")))
    called = set(re.findall(r" UND (\w+)$", symbols, re.MULTILINE))
    assert {"open", "memcpy"} <= called
    assert not called & set(TOO_NEW.split())


def test_our_sources_compile_for_macos(compilers: dict[str, list[str]], tmp_path: Path) -> None:
    """For lack of an iOS C++ library the core's gate is macOS: the same headers but for frameworks."""
    for source in OURS:
        path, flags = flags_of(source)
        command = [*compilers["c++"], "-target", "aarch64-macos.13.0", *flags]
        assert compile_object(command, path, tmp_path / "macos.o").startswith(MACH_O_ARM64)


@pytest.mark.parametrize("target", ["aarch64-macos.13.0", "aarch64-ios.17.0"])
def test_ggml_and_the_c_api_compile_for_apple(
    target: str, zig: Path, compilers: dict[str, list[str]], tmp_path: Path
) -> None:
    library = zig.parent / "lib"
    headers = [
        "-nostdinc",
        "-isystem",
        str(library / "include"),
        "-isystem",
        str(library / "libc/include/any-darwin-any"),
    ]
    command = [*compilers["cc"], "-target", target, "-mcpu=apple_a14", *(headers if "ios" in target else [])]
    for source in GGML_C:
        path, flags = flags_of(source)
        assert compile_object([*command, *flags], path, tmp_path / "apple.o").startswith(MACH_O_ARM64)
    caller = REPOSITORY / "cpp/tests/test_c_api.c"
    flags = [f"-I{REPOSITORY / 'cpp/include'}", f"-I{caller.parent}"]
    assert compile_object([*command, *flags], caller, tmp_path / "api.o").startswith(MACH_O_ARM64)


def test_what_is_missing_is_named() -> None:
    """`make cross` for a preset that this machine cannot build says what it needs."""
    environment = {name: value for name, value in os.environ.items() if name != "ANDROID_NDK_HOME"}
    environment["PATH"] = str(Path(sys.executable).parent)  # no compilers
    for preset, needs in (
        ("android-arm64", "ANDROID_NDK_HOME"),
        ("ios-arm64", "macOS"),
        ("linux-arm64-gcc", "apt-get install g++-aarch64-linux-gnu"),
    ):
        if preset == "ios-arm64" and sys.platform == "darwin":
            continue
        done = subprocess.run(
            [sys.executable, str(REPOSITORY / "tools/cross.py"), preset],
            env=environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 1
        assert needs in done.stderr
        assert len(done.stderr.splitlines()) == 1, done.stderr
