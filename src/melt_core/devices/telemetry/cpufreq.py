"""``/sys/devices/system/cpu/cpufreq``: clock, limits and governor of each cluster of cores."""

from __future__ import annotations

from dataclasses import dataclass

from melt_core.devices.telemetry.base import Readout, ReadoutBuilder, integer_of, lines_of, number_of, scaled
from melt_core.devices.telemetry.sites import slug
from melt_core.devices.telemetry.tree import FileTree
from melt_core.errors import TelemetryError

ROOT = "/sys/devices/system/cpu/cpufreq"
FILES = (
    "related_cpus", "scaling_cur_freq", "scaling_max_freq", "cpuinfo_max_freq", "scaling_governor",
    "stats/time_in_state",
)  # fmt: skip

_HZ_PER_KHZ = 1e3
_S_PER_JIFFY = 0.01  # time_in_state counts in USER_HZ, which is 100 on every Linux
_MOST_STATES = 256


@dataclass(frozen=True)
class Policy:
    """One cluster: cores that share a clock."""

    name: str
    cpus: tuple[int, ...]
    current_hz: float | None
    limit_hz: float | None
    highest_hz: float | None
    governor: str | None

    @property
    def is_capped(self) -> bool:
        """Whether the limit is below what the cores can do: by a user, a power mode or heat."""
        return self.limit_hz is not None and self.highest_hz is not None and self.limit_hz < self.highest_hz


def policies(tree: FileTree) -> list[Policy]:
    """Returns the clusters, in the order of their first core."""
    found = []
    for name in tree.entries(ROOT):
        if not (name.startswith("policy") and name[6:].isdigit()):
            continue

        def hertz(file: str, folder: str = f"{ROOT}/{name}") -> float | None:
            value = number_of(tree.read(f"{folder}/{file}"))
            return scaled(value, _HZ_PER_KHZ) if value is not None and value > 0 else None

        cpus = (tree.read(f"{ROOT}/{name}/related_cpus") or "").split()[:1024]
        found.append(
            Policy(
                name=name,
                cpus=tuple(cpu for text in cpus if (cpu := integer_of(text)) is not None),
                current_hz=hertz("scaling_cur_freq"),
                limit_hz=hertz("scaling_max_freq"),
                highest_hz=hertz("cpuinfo_max_freq"),
                governor=tree.read(f"{ROOT}/{name}/scaling_governor") or None,
            )
        )
    return found


def parse(tree: FileTree) -> Readout:
    """Returns the clock of each cluster; governors and caps are facts."""
    built = ReadoutBuilder(ROOT)
    found = policies(tree)
    for policy in found:
        site = f"cpu-{slug(policy.name)}"
        built.add(site, "frequency", "Hz", policy.current_hz, source=f"{ROOT}/{policy.name}/scaling_cur_freq")
        if policy.governor:
            built.fact(f"governor_{policy.name}", policy.governor[:32])
        if policy.is_capped:
            built.fact(f"capped_{policy.name}_hz", f"{policy.limit_hz:.0f}")
    if not found:
        built.lacks("cpu/frequency/Hz", f"{ROOT} has no policies: a virtual machine, or a kernel without it")
    return built.done()


def time_in_state(text: str) -> dict[float, float]:
    """Returns seconds at each clock in Hz, as ``stats/time_in_state`` has them ("kHz ticks" a line).

    Raises:
        TelemetryError: A line is not of that form.
    """
    spent: dict[float, float] = {}
    for line in lines_of(text, "time_in_state"):
        if not line.strip():
            continue
        parts = line.split()
        clock, ticks = (number_of(parts[0]), number_of(parts[1])) if len(parts) == 2 else (None, None)
        if clock is None or ticks is None or clock <= 0 or ticks < 0 or len(spent) >= _MOST_STATES:
            raise TelemetryError(f"time_in_state has a line that is no clock in kHz with its ticks: {line[:60]!r}")
        spent[clock * _HZ_PER_KHZ] = ticks * _S_PER_JIFFY
    return spent
