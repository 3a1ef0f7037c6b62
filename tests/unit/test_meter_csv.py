"""CSV files of meters: many ways to write the same readings, and files that must be refused instead of guessed at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from melt_core.errors import InvalidArgumentError, StorageError
from melt_core.meters import Recording, read_csv

ROWS = [(0.0, 0.5, 4.0), (0.001, 0.75, 4.0), (0.002, 1.5, 3.99), (0.003, 0.25, 4.0)]


def write(tmp_path: Path, text: str, encoding: str = "utf-8") -> Path:
    path = tmp_path / "meter.csv"
    path.write_bytes(text.encode(encoding))
    return path


def same(recording: Recording) -> None:
    assert recording.time_ns.tolist() == [0, 1_000_000, 2_000_000, 3_000_000]
    assert recording.series["current"] == pytest.approx([row[1] for row in ROWS])
    assert recording.series["voltage"] == pytest.approx([row[2] for row in ROWS])


def table(header: str, rows: list[tuple[str, ...]], separator: str) -> str:
    return "\n".join([header, *(separator.join(row) for row in rows)]) + "\n"


VARIANTS = {
    "Monsoon": table(
        "Time(ms),Main(mA),Main Voltage(V)",
        [(f"{t * 1e3:.1f}", f"{i * 1e3:.3f}", f"{v:.4f}") for t, i, v in ROWS], ","),
    "German": table(
        "Zeit [s];Strom [A];Spannung [V]",
        [tuple(f"{value:.4f}".replace(".", ",") for value in row) for row in ROWS],
        ";"),
    "tabs, other order": table(
        "voltage_mv\tcurrent_ua\ttime_us",
        [(f"{v * 1e3:.0f}", f"{i * 1e6:.0f}", f"{t * 1e6:.0f}") for t, i, v in ROWS], "\t"),
    "preamble and more columns": "Instrument: X\nRate: 1 kHz\n\n" + table(
        "Sample,Time (s),I (A),U (V),Remark",
        [(str(n), f"{t:g}", f"{i:g}", f"{v:g}", "ok") for n, (t, i, v) in enumerate(ROWS)], ","),
    "micro sign, quotes": table(
        '"t/µs";"I/mA";"U/V"', [(f"{t * 1e6:.0f}", f'"{i * 1e3:.1f}"', f"{v:.2f}") for t, i, v in ROWS], ";"),
    "ISO dates": table(
        "timestamp,current (A),voltage (V)",
        [(f"2026-03-01T10:00:00.{round(t * 1e3):03d}+01:00", f"{i:g}", f"{v:g}") for t, i, v in ROWS], ","),
    "German dates": table(
        "Datum/Zeit;Strom (A);Spannung (V)".replace("Datum/Zeit", "Zeit"),
        [(f"01.03.2026 10:00:00,{round(t * 1e3):03d}", f"{i:.3f}".replace(".", ","), f"{v:.2f}".replace(".", ","))
         for t, i, v in ROWS], ";"),
    "American dates": table(
        "Time,Current (A),Voltage (V)",
        [(f"03/21/2026 11:59:59.{round(t * 1e3):03d} PM", f"{i:g}", f"{v:g}") for t, i, v in ROWS], ","),
}  # fmt: skip


@pytest.mark.parametrize("name", VARIANTS)
def test_one_recording_written_in_many_ways(name: str, tmp_path: Path) -> None:
    same(read_csv(write(tmp_path, VARIANTS[name])))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
def test_encodings(encoding: str, tmp_path: Path) -> None:
    same(read_csv(write(tmp_path, VARIANTS["micro sign, quotes"], encoding)))


def test_dates_give_the_wall_clock(tmp_path: Path) -> None:
    recording = read_csv(write(tmp_path, VARIANTS["ISO dates"]))
    assert recording.start_wall_ns == 1_772_355_600_000_000_000  # 2026-03-01 09:00 UTC
    assert read_csv(write(tmp_path, VARIANTS["German dates"])).start_wall_ns is None  # the zone is not known
    zoned = read_csv(write(tmp_path, VARIANTS["German dates"]), timezone="Europe/Berlin")
    assert zoned.start_wall_ns == recording.start_wall_ns
    epoch = "timestamp_ms,power_w\n1772355600000,1\n1772355600500,2\n"
    assert read_csv(write(tmp_path, epoch)).start_wall_ns == recording.start_wall_ns


def local_times(times: list[str]) -> str:
    return "time,power (W)\n" + "".join(f"{time},{n}.5\n" for n, time in enumerate(times))


def test_daylight_saving(tmp_path: Path) -> None:
    back = ["2026-10-25 02:59:59.0", "2026-10-25 02:59:59.5", "2026-10-25 02:00:00.0", "2026-10-25 02:00:00.5"]
    forward = ["2026-03-29 01:59:59.0", "2026-03-29 01:59:59.5", "2026-03-29 03:00:00.0", "2026-03-29 03:00:00.5"]
    for times, way in ((back, "back"), (forward, "forward")):
        path = write(tmp_path, local_times(times))
        with pytest.raises(InvalidArgumentError, match=f"time goes {way} by an hour .*daylight saving: give the zone"):
            read_csv(path)
        resolved = read_csv(path, timezone="Europe/Berlin")
        assert resolved.time_ns.tolist() == [0, 500_000_000, 1_000_000_000, 1_500_000_000]
    with pytest.raises(InvalidArgumentError, match="no time zone 'Mars/Base'"):
        read_csv(path, timezone="Mars/Base")
    midnight = ["23:59:59.0", "23:59:59.5", "00:00:00.0", "00:00:00.5"]
    assert read_csv(write(tmp_path, local_times(midnight))).time_ns[-1] == 1_500_000_000


REFUSED = {
    "empty": ("", "is empty"),
    "no table": ("once upon a time\nthere was a meter\n", "no header"),
    "no header": ("0,1,2\n1,1,2\n2,1,2\n", "no header"),
    "binary": ("PK\0\0\3\4" + "\0" * 64, "binary"),
    "no time": ("power (W),voltage (V)\n1,2\n1,2\n", "none of the columns 'power .W.', 'voltage .V.' is a time"),
    "no quantity": ("time (s),humidity (%)\n1,2\n2,2\n", "is power, current, voltage or energy"),
    "no unit": ("time (s),current\n1,2\n2,2\n", "'current' does not say its unit: give it"),
    "no unit of time": ("time,current (A)\n1,2\n2,2\n", "'time' does not say its unit"),
    "another unit": ("time (s),current (furlong)\n1,2\n2,2\n", "is in 'furlong', and current is understood in A, mA"),
    "two of a kind": ("time (s),P1 (W),P2 (W)\n1,2,3\n2,2,3\n", "are all of power: choose one"),
    "which decimal": ("time (s);power (W)\n0;1,234\n1;1,235\n", "can be a decimal or a thousand"),
    "both signs": ("time (s);power (W)\n0;1,23\n1;1.25\n", "beside numbers with a point"),
    "which day": ("time,power (W)\n03/04/2026 10:00:00,1\n03/04/2026 10:00:01,2\n", "which number is the day"),
    "backwards": ("time (s),power (W)\n0,1\n1,1\n0.5,1\n", "goes back by 0.5 s in line 4"),
    "one row": ("time (s),power (W)\n0,1\n", "1 rows of numbers"),
    "all bad": ("time (s),power (W)\n0,1\n1,x\n2,y\n3,1\n", "2 of 4 rows cannot be read"),
    "other columns later": ("time (s),power (W)\n" + "".join(f"{n},1\n" for n in range(5)) + "6,1,2,3\n" * 5, "cells"),
    "mixed zones": ("time,power (W)\n2026-01-01T00:00:00Z,1\n2026-01-01T00:00:01,1\n", "some have none"),
    "a quote that is never closed": ('time (s),power (W)\n0,1\n1,"2' + "9" * 150_000, "field larger than field limit"),
    "the same further down": (
        "time (s),power (W)\n" + "".join(f"{n},1\n" for n in range(300)) + '300,"' + "9" * 150_000,
        "field larger than field limit",
    ),
    "no such day": ("time,power (W)\n2026-02-30 00:00:00,1\n2026-02-30 00:00:01,1\n", "no such date"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_files_that_are_refused(name: str, tmp_path: Path) -> None:
    text, message = REFUSED[name]
    with pytest.raises(InvalidArgumentError, match=message) as caught:
        read_csv(write(tmp_path, text))
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_the_caller_says_settles_it(tmp_path: Path) -> None:
    path = write(tmp_path, "when;P1 (W);P2 (W)\n0;1,234;9\n5;1,235;9\n")
    chosen = read_csv(path, columns={"time": "when", "power": "P1 (W)"}, units={"time": "ms"}, decimal=",")
    assert chosen.time_ns.tolist() == [0, 5_000_000]
    assert chosen.power_w().tolist() == [1.234, 1.235]
    assert (
        read_csv(path, columns={"time": "when", "power": "P1 (W)"}, units={"time": "s"}, decimal=".").power_w()[0]
        == 1234
    )
    dated = write(tmp_path, REFUSED["which day"][0])
    assert read_csv(dated, date_order="dmy").duration_s == 1
    with pytest.raises(InvalidArgumentError, match="0 columns are named 'nope'"):
        read_csv(path, columns={"time": "nope"})
    with pytest.raises(StorageError, match="cannot read"):
        read_csv(tmp_path / "none.csv")


def test_a_few_bad_cells_are_left_out_and_named(tmp_path: Path) -> None:
    rows = [f"{n * 0.01:.2f},{2.5 + n % 3 * 0.5}" for n in range(200)]
    rows[50], rows[51], rows[90], rows[120] = "0.50,OL", "0.51,", "0.90,9.9E+37", rows[119]
    del rows[150:160]
    recording = read_csv(write(tmp_path, "time (s),power (W)\n" + "\n".join(rows) + "\n"))
    text = "; ".join(recording.warnings)
    assert "3 rows have no number in 'power (W)', the first in line 52: 'OL'" in text
    assert "1 rows have the time of the row before, the first in line 122" in text
    assert "1 gaps without readings" in text
    assert np.isnan(recording.power_w()).sum() == 3
    assert len(recording.time_ns) == 189
    assert len(recording.gaps_ns) == 1
