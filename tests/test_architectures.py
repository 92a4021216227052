"""Every valid combination of cell, architecture and attention: trained a little, saved and translated with."""

import itertools
import json
from pathlib import Path

import pytest

from nmtcli.config import ARCHITECTURES
from nmtcli.model.attention import ATTENTIONS
from nmtcli.model.cells import CELLS
from tests.conftest import TINY, Nmt, log_of

FIXED = ("sutskever", "cho")
COMBINATIONS = [
    (arch, cell, attention)
    for arch, cell, attention in itertools.product(ARCHITECTURES, CELLS, (*ATTENTIONS, "none"))
    if (attention == "none") == (arch in FIXED)
]


@pytest.mark.parametrize(("arch", "cell", "attention"), COMBINATIONS, ids="-".join)
def test_a_model_trains_and_translates_the_same_in_batches_of_one_and_of_eight(
    arch: str, cell: str, attention: str, nmt: Nmt, data: Path, corpus: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    options = ["--arch", arch, "--cell", cell, "--attention", attention, "--max-updates", "12", "--log-every", "3"]
    options += ["--learning-rate", "0.01", "--batch-tokens", "512", "--validate-every", "1000"]
    trained = nmt("train", "--data", data, "--model", model, *TINY, *options)
    assert trained.code == 0, trained.err
    losses = [record["nll"] for record in log_of(model, "train")]
    assert losses[-1] < losses[0]
    text = b"".join((corpus / "test.num").read_bytes().splitlines(keepends=True)[:8])
    outputs = [
        nmt("translate", "--model", model, "--threads", "1", "--beam", "3", "--batch-tokens", tokens, stdin=text)
        for tokens in ("1", "10000")
    ]
    assert [output.code for output in outputs] == [0, 0], outputs[0].err
    assert outputs[0].out == outputs[1].out
    assert len(outputs[0].lines) == 8


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_an_architecture_sets_what_it_says_and_a_flag_and_a_recipe_win(
    arch: str, nmt: Nmt, data: Path, tmp_path: Path
) -> None:
    def shape(*options: str | Path) -> dict[str, object]:
        model = tmp_path / f"model {len(list(tmp_path.iterdir()))}"
        result = nmt("train", "--data", data, "--model", model, *TINY, "--max-updates", "1", "--arch", arch, *options)
        assert result.code == 0, result.err
        stored = json.loads((model / "config.json").read_text(encoding="utf-8"))["model"]
        assert isinstance(stored, dict)
        return stored

    alone = shape()
    assert {name: alone[name] for name in ARCHITECTURES[arch]} == ARCHITECTURES[arch]
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('[model]\ncell = "rnn"\nresidual = false\n', encoding="utf-8")
    chosen = shape("--config", recipe, "--residual", "--encoder-layers", "2")
    assert chosen == {**alone, "cell": "rnn", "residual": True, "encoder_layers": 2}


def test_the_help_lists_the_architectures_and_what_they_set(nmt: Nmt) -> None:
    said = nmt("train", "--help").out.decode()
    for arch in ARCHITECTURES:
        assert f"\n    {arch} " in said
    assert "--input-feeding --no-bidirectional --reverse-source --no-residual" in said


@pytest.mark.parametrize("arch", FIXED)
@pytest.mark.parametrize("option", [["--alignments", "a.txt"], ["--coverage-penalty", "0.2"]], ids=lambda one: one[0])
def test_what_needs_attention_is_refused_where_there_is_none(
    arch: str, option: list[str], nmt: Nmt, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = tmp_path / "model"
    assert nmt("train", "--data", data, "--model", model, *TINY, "--max-updates", "1", "--arch", arch).code == 0
    said = nmt("translate", "--model", model, *option, stdin=b"1 2\n").refusal(2)
    assert option[0] in said
    assert not (tmp_path / "a.txt").exists()
