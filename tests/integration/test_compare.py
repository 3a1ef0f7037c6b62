"""`melt compare`: two traces of the same tokens."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import melt_core as melt
from melt_core.analysis.compare import compare, logit_agreement

from .conftest import Outcome


def record(cli: Callable[..., Outcome], model: Path, output: Path, *arguments: object) -> Path:
    done = cli("profile", model, "--ctx", 128, "--threads", 1, "--repeats", 2, "--overhead-seconds", 0,
               "--levels", "tokens,ops", "-o", output, *arguments)  # fmt: skip
    assert done.code == 0, done.err
    return output


@pytest.fixture
def pair(tiny_llama: Path, cli: Callable[..., Outcome], tmp_path: Path) -> tuple[Path, Path]:
    """A trace, and one that replays it with a KV cache of another type."""
    first = record(cli, tiny_llama, tmp_path / "a.melt", "--prompt-tokens", 9, "--max-tokens", 6, "--logits")
    second = record(cli, tiny_llama, tmp_path / "b.melt", "--replay", first, "--logits", "--kv-type", "f32")
    return first, second


def test_the_replay_evaluates_the_same_tokens(pair: tuple[Path, Path]) -> None:
    first, second = (melt.Trace.open(path) for path in pair)
    assert first.summary().output_token_ids == second.summary().output_token_ids
    assert list(first.prompts["token_id"][:9]) == list(second.prompts["token_id"][:9])
    assert second.metadata["request"]["n_forced_ids"] == 6


def test_replayed_output_is_not_what_is_sampled(
    tiny_llama: Path, cli: Callable[..., Outcome], pair: tuple[Path, Path], tmp_path: Path
) -> None:
    # GIVEN a draw that greedy decoding would not give
    drawn = record(cli, tiny_llama, tmp_path / "drawn.melt", "--prompt-from", pair[0], "--ignore-eos",
                   "--temperature", 5, "--seed", 3, "--max-tokens", 6)  # fmt: skip
    wanted = melt.Trace.open(drawn).summary().output_token_ids
    assert wanted != melt.Trace.open(pair[0]).summary().output_token_ids
    # WHEN it is replayed greedily
    again = record(cli, tiny_llama, tmp_path / "again.melt", "--replay", drawn)
    # THEN the drawn tokens come out
    assert melt.Trace.open(again).summary().output_token_ids == wanted


def test_two_traces_side_by_side(pair: tuple[Path, Path], cli: Callable[..., Outcome]) -> None:
    done = cli("compare", *pair)
    assert done.code == 0, done.err
    for part in ("decode, time per step", "attention", "lm_head", "bits per weight", "config.kv_type"):
        assert part in done.out
    values = json.loads(cli("compare", *pair, "--json").out)
    assert ["config.kv_type", "f16", "f32"] in values["differences"]
    assert values["logits"]["n_steps"] == 6
    assert values["logits"]["same_top"] == 1.0
    assert 0 <= values["logits"]["logprob_difference_max"] < 0.01
    assert values["first"]["bits_per_weight"] == pytest.approx(values["second"]["bits_per_weight"])
    decode = {row["module"]: row for row in values["modules"] if row["phase"] == "decode"}
    assert decode["ffn"]["first_ns"] > 0
    assert decode["ffn"]["second_ns"] > 0


def test_a_trace_agrees_with_itself(pair: tuple[Path, Path]) -> None:
    trace = melt.Trace.open(pair[0])
    found = compare(trace, trace)
    assert (found.logits.same_top, found.logits.top_overlap, found.logits.logit_difference) == (1.0, 1.0, 0.0)
    assert found.differences == ()
    assert all(row.first_ns == row.second_ns for row in found.modules)


def test_what_must_match_is_refused(
    tiny_llama: Path, pair: tuple[Path, Path], cli: Callable[..., Outcome], tmp_path: Path
) -> None:
    other = record(cli, tiny_llama, tmp_path / "c.melt", "--prompt-tokens", 8, "--max-tokens", 6, "--seed", 4)
    done = cli("compare", pair[0], other)
    assert done.code == 2
    assert "they evaluated different prompts: record the second with --replay FIRST.melt" in done.complaint
    shorter = record(cli, tiny_llama, tmp_path / "d.melt", "--prompt-from", pair[0], "--max-tokens", 3, "--ignore-eos")
    assert "they decoded different tokens" in cli("compare", pair[0], shorter).complaint
    anyway = cli("compare", pair[0], shorter, "--anyway")
    assert anyway.code == 0
    assert "warning: they decoded different tokens" in anyway.out
    assert "logits: not compared: one of the traces holds no logits" in anyway.out


def test_two_runtimes_are_compared(cli: Callable[..., Outcome], tmp_path: Path) -> None:
    model = "layers=2,op_ns=20000"
    first = record(cli, model, tmp_path / "a.melt", "--runtime", "synthetic", "--prompt", "Hi", "--logits")  # type: ignore[arg-type]
    done = cli("compare", first, first)
    assert "logits: not compared: this runtime gives no logits" in done.out


@pytest.mark.parametrize(
    "damaged",
    [
        None,
        3,
        {"missing": "why"},
        {},
        {"token_ids": [1]},
        {"token_ids": [1], "logprobs": ["x"], "top_ids": [], "top_logits": []},
    ],
)
def test_damaged_logits_are_a_reason_and_no_error(damaged: object) -> None:
    found = logit_agreement(damaged, damaged)
    assert found.reason
    assert found.same_top is None
