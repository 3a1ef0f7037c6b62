"""A sysfs tree as the kernel lays it out, filled and driven by a `SimulatedDevice`.

    with SysfsTree(tmp_path, device) as tree:   # files are there, with the values of time 0
        tree.start(rate_hz=1000)                # a thread moves them from now on: tree.zero_ns is time 0
        os.environ["MELT_SYSFS_ROOT"] = str(tree.root)

Every value is written in place, with one system call of fixed length, so that a reader that keeps the file open sees
old or new and never half of one, as with the kernel. What the kernel does and files cannot: an open file of a driver
that has gone gives ENODEV in the kernel; here it is unlinked, and the reader has to notice.

As a program, for a writer that takes no time from the reader's process: `python sysfs_tree.py ROOT SECONDS [RATE_HZ]`.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from fakes.simulated_device import SimulatedDevice

#: Bytes of a driven file: a number, blanks, a line feed.
WIDTH = 24
RAPL_RANGE_UJ = 262_143_328_850
RAPL = "class/powercap/intel-rapl:0"
INA = "class/hwmon/hwmon1"
INA238 = "class/hwmon/hwmon2"
BATTERY = "class/power_supply/battery"
THERMAL = "class/thermal/thermal_zone0"
COOLING = "class/thermal/cooling_device0"
CPUFREQ = "devices/system/cpu/cpufreq/policy0"
#: Rail of the INA3221 -> (label, voltage in V, site of the device)
RAILS = {1: ("VDD_IN", 5.0, "board"), 2: ("VDD_CPU_GPU_CV", 5.0, "cpu"), 3: ("VDD_SOC", 5.0, "mem")}


class SysfsTree:
    """The tree and its writer. Leaving the ``with`` block stops the writer and closes the files; they stay."""

    def __init__(
        self,
        root: Path,
        device: SimulatedDevice,
        *,
        rapl_start_j: float = 0.0,
        battery_sign: int = -1,
        battery_unit: float = 1e6,
        thermal_unit: float = 1e3,
    ) -> None:
        """Makes the files, with what they show at time 0.

        Args:
            root: Where; created if need be.
            device: The truth.
            rapl_start_j: The counter's value at time 0: near RAPL_RANGE_UJ it wraps soon.
            battery_sign: Of current_now while discharging; -1 is the kernel's own rule, 0: no sign at all.
            battery_unit: Of current_now and voltage_now per A and V: 1e6, or 1e3 for drivers that count in mA and mV.
            thermal_unit: Of a thermal zone per degC: 1e3, or 1 for drivers that count in plain degC.
        """
        self.root = root
        self.device = device
        self.zero_ns = 0
        self._rapl_start_uj = rapl_start_j * 1e6
        self._battery_sign, self._battery_unit, self._thermal_unit = battery_sign, battery_unit, thermal_unit
        self._files: dict[str, int] = {}
        self._values: dict[str, Callable[[float], str]] = {}
        self._held: set[str] = set()  # no longer driven
        self._guard = threading.Lock()
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None
        self._lay_out()
        self.update(0.0)

    def _lay_out(self) -> None:
        for path, text in {
            f"{RAPL}/name": "package-0",
            f"{RAPL}/max_energy_range_uj": str(RAPL_RANGE_UJ),
            f"{INA}/name": "ina3221",
            f"{INA238}/name": "ina238",
            f"{BATTERY}/type": "Battery",
            f"{THERMAL}/type": "cpu-thermal",
            f"{COOLING}/type": "cpufreq-cpu0",
            f"{COOLING}/max_state": "10",
            f"{CPUFREQ}/related_cpus": "0 1 2 3",
            f"{CPUFREQ}/cpuinfo_max_freq": "2400000",
        }.items():
            self.put(path, text)
        device = self.device
        self._values = {
            f"{RAPL}/energy_uj": self._rapl,
            f"{INA238}/power1_input": lambda t: _whole(device.power_w("board", t) * 1e6),
            f"{BATTERY}/current_now": self._battery_current,
            f"{BATTERY}/voltage_now": lambda t: _whole(device.battery_v * self._battery_unit),
            f"{BATTERY}/charge_counter": lambda t: _whole(device.charge_ah(t) * 1e6),
            f"{BATTERY}/capacity": lambda t: _whole(device.charge_ah(t) / device.battery_ah * 100),
            f"{BATTERY}/status": lambda t: "Charging" if device.power_w("battery", t) < 0 else "Discharging",
            f"{BATTERY}/temp": lambda t: "291",
            f"{THERMAL}/temp": lambda t: _whole(device.temperature_c(t) * self._thermal_unit),
            f"{COOLING}/cur_state": lambda t: _whole(device.throttle_level.at(t)),
            f"{CPUFREQ}/scaling_cur_freq": lambda t: _whole(device.frequency_hz.at(t) / 1e3),
        }
        for rail, (label, volts, site) in RAILS.items():
            self.put(f"{INA}/in{rail}_label", label)
            self._values[f"{INA}/in{rail}_input"] = _constant(str(round(volts * 1e3)))
            self._values[f"{INA}/curr{rail}_input"] = _current(device, site, volts)
        for path in self._values:
            self.put(path, "0")
            self._files[path] = os.open(self.root / path, os.O_WRONLY)

    def _rapl(self, time_s: float) -> str:
        return str(int(self._rapl_start_uj + float(self.device.counter_j("package-0", time_s)) * 1e6) % RAPL_RANGE_UJ)

    def _battery_current(self, time_s: float) -> str:
        amperes = float(self.device.power_w("battery", time_s)) / self.device.battery_v
        return _whole((amperes * self._battery_sign if self._battery_sign else abs(amperes)) * self._battery_unit)

    def put(self, path: str, text: str) -> None:
        """Makes a file that nobody drives."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text.ljust(WIDTH - 1) + "\n")

    def update(self, time_s: float) -> None:
        """Writes what every file shows at a time."""
        with self._guard:
            for path, value in self._values.items():
                if path not in self._held:
                    os.pwrite(self._files[path], value(time_s).ljust(WIDTH - 1).encode() + b"\n", 0)

    # The writer

    def now_s(self) -> float:
        """Returns the device's time, once started."""
        return (time.monotonic_ns() - self.zero_ns) / 1e9

    def start(self, *, rate_hz: float = 1000.0) -> None:
        """Starts the thread that moves the files, anew if there is one; now is time 0."""
        self.stop()
        self.zero_ns = time.monotonic_ns()
        self._ending.clear()
        self._thread = threading.Thread(target=self._drive, args=(rate_hz,), daemon=True)
        self._thread.start()

    def _drive(self, rate_hz: float) -> None:
        deadline_s = 0.0
        while not self._ending.wait(max(deadline_s - self.now_s(), 0.0)):
            self.update(self.now_s())
            deadline_s = max(deadline_s + 1.0 / rate_hz, self.now_s())

    def stop(self) -> None:
        """Stops the thread; the files keep their last values."""
        self._ending.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    # What goes wrong with sensors

    def freeze(self, path: str) -> None:
        """From now on the file shows what it shows."""
        with self._guard:
            self._held.add(path)

    def thaw(self, path: str) -> None:
        """The file moves again."""
        with self._guard:
            self._held.discard(path)

    def garble(self, path: str, text: str = "<error>") -> None:
        """From now on the file shows this text."""
        with self._guard:
            self._held.add(path)
            os.pwrite(self._files[path], text.ljust(WIDTH - 1).encode() + b"\n", 0)

    def vanish(self, path: str) -> None:
        """Removes the file; who has it open keeps a file without a name."""
        with self._guard:
            self._held.add(path)
            (self.root / path).unlink()

    def come_back(self, path: str) -> None:
        """Makes a file that vanished anew, as a driver that is loaded again does."""
        with self._guard:
            os.close(self._files[path])
            self.put(path, self._values[path](self.now_s()))
            self._files[path] = os.open(self.root / path, os.O_WRONLY)
            self._held.discard(path)

    def __enter__(self) -> SysfsTree:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        while self._files:
            with contextlib.suppress(OSError):
                os.close(self._files.popitem()[1])


def _whole(value: Any) -> str:
    return str(round(float(value)))


def _constant(text: str) -> Callable[[float], str]:
    return lambda _: text


def _current(device: SimulatedDevice, site: str, volts: float) -> Callable[[float], str]:
    return lambda t: _whole(device.power_w(site, t) / volts * 1e3)


def main() -> None:
    """Drives a tree for some seconds."""
    root, seconds = Path(sys.argv[1]), float(sys.argv[2])
    rate_hz = float(sys.argv[3]) if len(sys.argv) > 3 else 200.0
    with SysfsTree(root, SimulatedDevice()) as tree:
        tree.start(rate_hz=rate_hz)
        print("driving", flush=True)
        time.sleep(seconds)


if __name__ == "__main__":
    main()
