"""Monsoon over real pyusb with a simulated unit behind it; SCPI over real pyvisa and a socket on loopback."""

from __future__ import annotations

import numpy as np
import pytest

from fakes.monsoon_usb import MonsoonBackend
from fakes.scpi_instrument import ScpiInstrument
from melt_core.errors import InvalidArgumentError, StorageError
from melt_core.meters import Monsoon, ScpiMeter
from melt_core.meters.monsoon_protocol import parse_packet


def steps(time_s: float) -> float:
    """Fine and coarse range: 10 mA, then 1.5 A."""
    return 0.010 if time_s % 1.0 < 0.5 else 1.5


def connect(backend: MonsoonBackend) -> Monsoon:
    meter = Monsoon.open(backend=backend)
    meter._clock = backend.clock
    return meter


def test_monsoon_reads_both_ranges() -> None:
    backend = MonsoonBackend(steps)
    with connect(backend) as meter:
        assert meter.serial_number == 12345
        meter.set_voltage(4.0)
        assert backend.set_values[0x41] == 4 << 20
        recording = meter.record(seconds=2.0)
    assert recording.rate_hz == pytest.approx(5000)
    assert len(recording.time_ns) == pytest.approx(10_000, rel=0.01)
    low, high = recording.series["current"] < 0.5, recording.series["current"] > 0.5
    assert recording.series["current"][low] == pytest.approx(0.010, abs=1e-6)
    assert recording.series["current"][high] == pytest.approx(1.5, abs=1e-3)
    assert recording.series["voltage"] == pytest.approx(4.0, abs=1e-3)
    energy = float(np.sum(np.diff(recording.time_ns) / 1e9 * recording.power_w()[1:]))
    assert energy == pytest.approx(4.0 * (0.010 + 1.5), rel=0.005)
    assert not backend.sampling


def test_monsoon_unplugged_dropping_and_garbled_is_named() -> None:
    backend = MonsoonBackend(steps)
    backend.unplugged_at_s, backend.drop_at_s, backend.garble_every = 1.5, 0.7, 400
    with connect(backend) as meter:
        recording = meter.record(seconds=3.0)
    assert recording.duration_s == pytest.approx(1.5, abs=0.05)
    text = "; ".join(recording.warnings)
    for what in ("unplugged", "250 observations were dropped", "packets could not be read", "gaps without readings"):
        assert what in text
    assert recording.gaps_ns
    (gap,) = [gap for gap in recording.gaps_ns if gap[1] - gap[0] > 40_000_000]
    assert gap[0] / 1e9 == pytest.approx(0.7, abs=0.01)
    assert (gap[1] - gap[0]) / 1e9 == pytest.approx(0.05, abs=0.005)


def test_monsoon_that_is_none() -> None:
    with pytest.raises(InvalidArgumentError, match="model 1"):
        Monsoon.open(backend=MonsoonBackend(steps, model=1))
    with pytest.raises(StorageError, match="no Monsoon"):
        Monsoon.open(serial="999", backend=MonsoonBackend(steps))
    backend = MonsoonBackend(steps)
    backend.unplugged_at_s = 0.0
    with connect(backend) as meter:
        with pytest.raises(StorageError, match="0 samples"):
            meter.record(seconds=1.0)
        for volts in (0.1, 20.0, -4.0, float("nan")):
            with pytest.raises(InvalidArgumentError):
                meter.set_voltage(volts)
    for data in (b"", b"\0\0\0\0", b"\0\0\0\3" + bytes(20), bytes(3)):
        assert parse_packet(data) is None


def test_scpi_instrument_is_read_at_its_rate() -> None:
    readings = {"MEAS:VOLT?": lambda n: "+5.0000E+00", "MEAS:CURR?": lambda n: f"{0.5 + 0.001 * n:.6E}"}
    with ScpiInstrument(readings) as instrument, ScpiMeter.open(instrument.address) as meter:
        assert meter.identity == "Simulated,DMM,1,0.1"
        recording = meter.record(seconds=0.6, rate_hz=50.0)
    assert 5 <= len(recording.time_ns) <= 31
    assert recording.series["voltage"].tolist() == [5.0] * len(recording.time_ns)
    assert np.all(np.diff(recording.series["current"]) > 0)
    assert recording.power_w()[0] == pytest.approx(5.0 * recording.series["current"][0])
    assert recording.start_wall_ns is not None


def test_scpi_overload_garbage_and_silence_are_gaps() -> None:
    answers = {3: "9.90000000E+37", 4: "ERR", 5: "9.91E37"}
    with ScpiInstrument({"MEAS:POW?": lambda n: answers.get(n, "2.5")}) as instrument:
        instrument.silent_after = 12
        with ScpiMeter.open(instrument.address, queries={"power": "MEAS:POW?"}, timeout_ms=150) as meter:
            recording = meter.record(seconds=5.0, rate_hz=50.0)
    assert recording.power_w().tolist() == [2.5] * 8  # 12 answered, one of them when connecting, 3 without a value
    text = "; ".join(recording.warnings)
    assert "stopped answering" in text
    assert "2 readings of power were overloaded" in text
    assert "1 readings of power were no number" in text
    assert recording.duration_s < 2


def test_scpi_instrument_that_does_not_know_the_query_or_is_not_there() -> None:
    with ScpiInstrument({"MEAS:VOLT?": lambda n: "1"}) as instrument:
        with pytest.raises(InvalidArgumentError, match="Undefined header"):
            ScpiMeter.open(instrument.address, queries={"power": "MEAS:WATTS?"})
        with pytest.raises(InvalidArgumentError, match="queries are of"):
            ScpiMeter.open(instrument.address, queries={"colour": "MEAS:COL?"})
        address = instrument.address
    with pytest.raises(StorageError, match=r"cannot reach|no answer"):
        ScpiMeter.open(address, timeout_ms=200)
