"""A model file without a vocabulary runs on token ids; what needs text is refused, and nobody's process ends."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import melt_core as melt
from fakes import tiny_models

from .conftest import SHORT, Outcome

Melt = Callable[..., Outcome]


@pytest.fixture
def mute_model(vocabularies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    _, kind, element = tiny_models._vocabulary()["tokenizer.ggml.model"]
    monkeypatch.setattr(tiny_models, "_vocabulary", lambda: {"tokenizer.ggml.model": ("no_vocab", kind, element)})
    return tiny_models.write_model(tmp_path / "mute.gguf", "llama")


def test_text_is_refused_and_ids_are_measured(mute_model: Path) -> None:
    with melt.load(mute_model, n_threads=1) as llm:
        with pytest.raises(melt.ModelError, match="no vocabulary: give the prompt as token ids"):
            llm.encode("hi")
        with melt.profile(llm) as profiler:
            with pytest.raises(melt.ModelError, match="no vocabulary"):
                profiler.run("hi", max_tokens=2)
            done = profiler.run([1, 2, 3], max_tokens=4, warmup=0, ignore_eos=True, overhead_budget_s=0)
    assert len(done.token_ids) == 4
    assert done.text == ""
    assert profiler.trace.complete


def test_the_command_line_says_so(mute_model: Path, tmp_path: Path, cli: Melt) -> None:
    refused = cli("profile", mute_model, "--prompt", "hi", "--max-tokens", 2)
    assert refused.code == 1
    assert "no vocabulary" in refused.complaint
    assert cli("profile", mute_model, *SHORT, "-o", tmp_path / "t.melt").code == 0
    assert melt.Trace.open(tmp_path / "t.melt").complete
