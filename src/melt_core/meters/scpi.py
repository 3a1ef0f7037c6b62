"""Any instrument that speaks SCPI (multimeters, power supplies, analysers), through pyvisa (extra ``scpi``).

Example:
    >>> from melt_core.meters import ScpiMeter
    >>> with ScpiMeter.open("TCPIP::192.168.1.7::5025::SOCKET") as meter:  # doctest: +SKIP
    ...     recording = meter.record(seconds=10, rate_hz=50)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Final

import numpy as np

from melt_core.errors import InvalidArgumentError, MissingExtraError, StorageError
from melt_core.meters.recording import UNITS, Recording, bounded, gap_warnings

#: What is asked for where nothing else is said (SCPI-1999, MEASure subsystem).
DEFAULT_QUERIES: Final[Mapping[str, str]] = {"voltage": "MEAS:VOLT?", "current": "MEAS:CURR?"}
_TIMEOUT_MS: Final = 2000
_MAX_FAILURES: Final = 3
#: IEEE 488.2: 9.9E37 infinity (overload), 9.91E37 no number.
_NO_VALUE: Final = 9.8e37
_MAX_ANSWER: Final = 1024


class ScpiMeter:
    """One connected instrument. Made by `open`; leaving the ``with`` block lets go of it."""

    def __init__(
        self,
        resource: Any,
        queries: Mapping[str, str],
        *,
        clock: Callable[[], int] = time.monotonic_ns,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Wraps a pyvisa resource; use `open`.

        Raises:
            InvalidArgumentError: A query is of an unknown kind, or the instrument does not know it.
            StorageError: It does not answer.
        """
        unknown = set(queries) - set(UNITS)
        if unknown or not queries:
            raise InvalidArgumentError(f"queries are of {', '.join(UNITS)}, not of {', '.join(unknown) or 'nothing'}")
        self._resource, self._queries, self._clock, self._sleep = resource, dict(queries), clock, sleep
        self.identity = self._ask("*IDN?").strip()
        self._ask_away_errors()
        for kind, query in self._queries.items():
            answer = self._ask(query)
            problem = self._ask("SYST:ERR?").strip()
            if not problem.startswith(("0", "+0")):
                raise InvalidArgumentError(
                    f"{self.identity} does not answer {query!r} ({kind}): {problem}; give the query "
                    f"that its manual has (--query {kind}=...)"
                )
            if _value(answer) is None and not _is_overload(answer):
                raise InvalidArgumentError(f"{self.identity} answers {answer.strip()[:40]!r} to {query!r}: no number")

    @classmethod
    def open(
        cls,
        address: str,
        *,
        queries: Mapping[str, str] = DEFAULT_QUERIES,
        backend: str = "@py",
        timeout_ms: int = _TIMEOUT_MS,
    ) -> ScpiMeter:
        """Connects to an instrument.

        Args:
            address: As VISA has it: ``TCPIP::host::5025::SOCKET``, ``USB0::...::INSTR``.
            queries: Kind (power, current, voltage) -> query that answers with one number in W, A, V.
            backend: Of pyvisa: ``@py`` is pure Python, ``@ivi`` a vendor's library.
            timeout_ms: For each answer.

        Raises:
            MissingExtraError: pyvisa is not installed.
            StorageError: The instrument cannot be reached.
            InvalidArgumentError: As the constructor.
        """
        try:
            import pyvisa
        except ImportError as error:
            raise MissingExtraError("pyvisa", extra="scpi") from error
        try:
            resource = pyvisa.ResourceManager(backend).open_resource(address)
            resource.timeout = timeout_ms
            resource.read_termination = resource.write_termination = "\n"  # type: ignore[attr-defined,unused-ignore]
        except (pyvisa.errors.Error, OSError, ValueError) as error:
            raise StorageError(f"cannot reach the instrument at {address}: {error}") from error
        try:
            return cls(resource, queries)
        except BaseException as error:
            resource.close()
            if isinstance(error, StorageError):
                raise StorageError(f"the instrument at {address}: {error}") from error
            raise

    def record(self, *, seconds: float, rate_hz: float = 10.0, stop: Callable[[], bool] = lambda: False) -> Recording:
        """Asks for every quantity `rate_hz` times a second, at absolute deadlines, on the host's steady clock.

        Ends before its time once `stop` says so.

        The time of a reading is the middle of its query. An answer that is no number, and none at all, is a gap; after
        three without an answer the instrument counts as unplugged and the recording ends.

        Raises:
            StorageError: Fewer than two readings came.
        """
        wall_ns, begin = time.time_ns(), self._clock()
        times: list[int] = []
        rows: list[list[float]] = []
        problems: dict[str, list[Any]] = {}
        n_failed, tick = 0, 0
        while (now := self._clock() - begin) < seconds * 1e9 and n_failed < _MAX_FAILURES and not stop():
            due = int(tick * 1e9 / rate_hz)
            if now < due:
                self._sleep((due - now) / 1e9)
                now = self._clock() - begin
            tick = max(tick + 1, int(now * rate_hz / 1e9))
            values, answered = self._read_all(problems, now)
            n_failed = 0 if answered else n_failed + 1
            if any(np.isfinite(values)):
                middle = (now + self._clock() - begin) // 2
                if not times or middle > times[-1]:
                    times.append(middle)
                    rows.append(values)
        notes = [f"{n} readings of {what}, the first at {at / 1e9:.3f} s" for what, (n, at) in problems.items()]
        if n_failed == _MAX_FAILURES:
            notes.insert(0, f"the instrument stopped answering at {now / 1e9:.3f} s: unplugged?")
        if len(times) < 2:
            raise StorageError(f"{self.identity} gave {len(times)} readings: {'; '.join(notes) or 'too short a time'}")
        time_ns = np.array(times, np.int64)
        table = np.array(rows, np.float64)
        notes += gap_warnings(time_ns)
        series = {kind: table[:, column] for column, kind in enumerate(self._queries)}
        return Recording(time_ns, series, self.identity, wall_ns, bounded(notes))

    def close(self) -> None:
        """Lets go of the instrument. Calling it twice is harmless."""
        self._resource.close()

    def _read_all(self, problems: dict[str, list[Any]], now_ns: int) -> tuple[list[float], bool]:
        """Returns a value for each quantity, NaN where there is none, and whether there was any answer."""
        values, answered = [], False
        for kind, query in self._queries.items():
            value = None
            try:
                answer = self._ask(query)
                answered = True
                value = _value(answer)
                what = f"{kind} were overloaded" if _is_overload(answer) else f"{kind} were no number"
            except StorageError:
                what = f"{kind} had no answer"
            if value is None:
                problems.setdefault(what, [0, now_ns])[0] += 1
            values.append(float("nan") if value is None else value)
            if not answered:
                return values + [float("nan")] * (len(self._queries) - len(values)), False
        return values, True

    def _ask_away_errors(self) -> None:
        """Empties the instrument's error queue: what stands in it is older than we are."""
        for _ in range(32):
            if self._ask("SYST:ERR?").strip().startswith(("0", "+0")):
                return

    def _ask(self, query: str) -> str:
        import pyvisa

        try:
            answer = str(self._resource.query(query))
        except (pyvisa.errors.Error, OSError, UnicodeDecodeError) as error:
            raise StorageError(f"no answer to {query!r}: {error}") from error
        return answer[:_MAX_ANSWER]

    def __enter__(self) -> ScpiMeter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _value(answer: str) -> float | None:
    try:
        value = float(answer.strip().rstrip("WAVJwavj \r\n"))
    except ValueError:
        return None
    return value if np.isfinite(value) and abs(value) < _NO_VALUE else None


def _is_overload(answer: str) -> bool:
    try:
        return abs(float(answer)) >= _NO_VALUE
    except ValueError:
        return False
