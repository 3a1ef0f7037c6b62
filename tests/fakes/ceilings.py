"""Ceilings with numbers one can work with by hand: a small cache, memory, and three families."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class FakeCeilings:
    """Per thread: 10 GB/s from a cache of `cache_bytes`, 1 GB/s beyond; rates in FLOP/s by family."""

    cache_bytes: float = 2_000.0
    cache_bandwidth: float = 10e9
    memory_bandwidth: float = 1e9
    rates: dict[str, float | None] = field(
        default_factory=lambda: {"f32_avx2": 1e9, "int8_avx2": 4e9, "int8_amx": 64e9, "bf16_amx": None}
    )
    machine: str = "Imaginary CPU, measured 2026-01-02"

    @property
    def families(self) -> tuple[str, ...]:
        return tuple(self.rates)

    def read_bandwidth(self, n_threads: int, working_set_bytes: float) -> float | None:
        return n_threads * (self.cache_bandwidth if working_set_bytes <= self.cache_bytes else self.memory_bandwidth)

    def flops(self, n_threads: int, family: str) -> float | None:
        rate = self.rates[family]
        return None if rate is None else n_threads * rate

    def describe(self) -> str:
        return self.machine

    def doubts(self) -> tuple[str, ...]:
        return ()
