"""The ceilings of this machine, for the commands that compare with them."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from melt_core.analysis.ceilings import Ceilings
from melt_core.errors import InvalidArgumentError, MeltError


@dataclass(frozen=True)
class MachineCeilings:
    """The measured ceilings as a roofline asks for them: plain rates, None where nothing was measured."""

    measured: Ceilings

    @property
    def families(self) -> tuple[str, ...]:
        """Names of the instruction families that were measured."""
        return self.measured.families()

    def read_bandwidth(self, n_threads: int, working_set_bytes: float) -> float | None:
        """Returns B/s over a working set of all threads together."""
        with contextlib.suppress(InvalidArgumentError):
            return self.measured.bandwidth(n_threads, working_set_bytes).value
        return None

    def flops(self, n_threads: int, family: str) -> float | None:
        """Returns FLOP/s of a family."""
        with contextlib.suppress(InvalidArgumentError):
            return self.measured.flops(n_threads, family).value
        return None

    def describe(self) -> str:
        """Returns which machine they are of, and when they were measured."""
        return f"{self.measured.cpu_model}, measured {self.measured.measured_at}"

    def doubts(self) -> tuple[str, ...]:
        """Returns one line for each reason to distrust them."""
        from melt_core.analysis.ceiling_checks import ceiling_doubts

        return ceiling_doubts(self.measured)


def cached_ceilings() -> MachineCeilings | None:
    """Returns the ceilings that were measured on this machine before; None if there are none to be used."""
    from melt_core.profiling.ceilings import load_ceilings

    found = load_ceilings().ceilings
    return None if found is None else MachineCeilings(found)


def required_ceilings() -> MachineCeilings:
    """Returns the ceilings of this machine.

    Raises:
        MeltError: if there are none; the message says why.
    """
    from melt_core.profiling.ceilings import load_ceilings

    found = load_ceilings()
    if found.ceilings is None:
        raise MeltError(f"{found.reason or 'no ceilings to be used'}: measure them with `melt doctor --ceilings`")
    return MachineCeilings(found.ceilings)
