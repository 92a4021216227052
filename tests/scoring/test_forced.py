"""`nmt score --model`: log-probabilities by forced decoding."""

import json
import math
from pathlib import Path

import pytest

from tests.conftest import Nmt


def test_score_by_model_gives_a_log_probability_a_line_and_the_perplexity_over_all(
    nmt: Nmt, trained: Path, corpus: Path
) -> None:
    options = ("--model", trained, "--source", corpus / "test.num", "--ref", corpus / "test.en")
    by_line = nmt("score", *options)
    assert by_line.code == 0, by_line.err
    scores = [float(line) for line in by_line.lines]
    assert len(scores) == 40
    as_json = json.loads(nmt("score", *options, "--json").out)
    assert as_json["log_probabilities"] == pytest.approx(scores, abs=1e-4)
    assert as_json["perplexity"] == pytest.approx(math.exp(-sum(scores) / as_json["tokens"]), rel=1e-4)
    assert f"perplexity {as_json['perplexity']:.3f}" in by_line.err
    alone = nmt("score", *options, "--batch-tokens", "1")
    assert [float(line) for line in alone.lines] == pytest.approx(scores, abs=2e-4)


def test_a_model_prefers_the_reference_to_another_sentences_reference(
    nmt: Nmt, trained: Path, corpus: Path, tmp_path: Path
) -> None:
    references = (corpus / "test.en").read_text().splitlines()
    wrong = tmp_path / "wrong.en"
    wrong.write_text("".join(f"{line}\n" for line in references[1:] + references[:1]))
    right, swapped = (
        nmt("score", "--model", trained, "--source", corpus / "test.num", "--ref", ref)
        for ref in (corpus / "test.en", wrong)
    )
    pairs = [(float(a), float(b)) for a, b in zip(right.lines, swapped.lines, strict=True)]
    assert sum(a for a, _ in pairs) > sum(b for _, b in pairs) + 100
    assert sum(a > b for a, b in pairs) >= 25


def test_unequal_source_and_reference_are_refused(nmt: Nmt, trained: Path, corpus: Path, tmp_path: Path) -> None:
    short = tmp_path / "short.en"
    short.write_text("one two\n")
    result = nmt("score", "--model", trained, "--source", corpus / "test.num", "--ref", short)
    assert "has 40 lines" in result.refusal(3)
