"""Every loss with the real commands: from a trained model, with every cell and both precisions, and exact resumes."""

import itertools
import json
from pathlib import Path

import pytest
import torch

from nmtcli.config import LOSS_OPTIONS, LOSSES, LOSSES_OF_LOGITS, SearchConfig
from nmtcli.data.batches import Batch
from nmtcli.knobs import option_name
from nmtcli.losses import build
from nmtcli.model.cells import CELLS
from nmtcli.search.host import Scoring, SearchRules
from nmtcli.search.model_searcher import ModelSearcher
from nmtcli.search.translator import LineTranslator, SubwordPair
from nmtcli.store.reader import StoredModel
from tests.conftest import TINY, Nmt, log_of
from tests.oracles import assert_same_run

WAYS: dict[str, list[str]] = {
    "greedy": ["--teacher-forcing", "0.3", "--teacher-forcing-decay", "linear", "--teacher-forcing-half", "4"],
    "greedy in passes": ["--loss", "greedy", "--greedy-passes", "2", "--teacher-forcing", "0.5"],
    "beam": ["--candidates", "3", "--beam-growth", "4", "--beam-cost", "bleu"],
    "beam and cross-entropy": ["--loss", "beam", "--candidates", "2", "--loss-mix", "0.3"],
    "risk": ["--candidates", "3", "--candidates-by", "samples", "--with-reference", "--risk-alpha", "2"],
    "risk and cross-entropy": ["--loss", "risk", "--candidates", "2", "--reward", "chrf", "--loss-mix", "0.5"],
    "max-margin": ["--candidates", "3", "--accumulate", "2"],
    "sequence-nll": ["--candidates", "3"],
}
QUICK = ["--batch-tokens", "100", "--log-every", "2", "--validate-every", "3", "--loader-workers", "0"]


def options_of(way: str) -> list[str]:
    named = [] if "--loss" in WAYS[way] else ["--loss", way]
    return [*named, *WAYS[way], *QUICK]


@pytest.fixture(scope="module")
def start(nmt: Nmt, data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model of each cell, trained with cross-entropy."""
    folder = tmp_path_factory.mktemp("start")
    for cell in CELLS:
        options = ["--cell", cell, "--max-updates", "60", "--learning-rate", "0.01", "--validate-every", "1000"]
        result = nmt("train", "--data", data, "--model", folder / cell, *TINY, *options)  # TINY sets the shape
        assert result.code == 0, result.err
    return {cell: folder / cell for cell in CELLS}


@pytest.mark.parametrize(("way", "cell", "precision"), list(itertools.product(WAYS, CELLS, ("fp32", "bf16"))))
def test_a_loss_trains_from_a_model_that_then_translates(
    way: str, cell: str, precision: str, start: dict[str, Path], nmt: Nmt, data: Path, corpus: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    options = ["--precision", precision, "--threads", "1", "--init-from", str(start[cell]), "--max-updates", "4"]
    result = nmt("train", "--data", data, "--model", model, *options, *options_of(way))
    assert result.code == 0, result.err
    records = log_of(model, "train")
    assert [record["update"] for record in records] == [2, 4]
    assert all(record["loss"] >= 0 and record["gradient_norm"] >= 0 for record in records)
    knows_likelihood = "greedy" in way or "cross-entropy" in way
    assert all((record["nll"] is not None) == knows_likelihood for record in records)
    text = b"".join((corpus / "test.num").read_bytes().splitlines(keepends=True)[:8])
    outputs = [
        nmt("translate", "--model", model, "--threads", "1", "--beam", "3", "--batch-tokens", tokens, stdin=text)
        for tokens in ("1", "10000")
    ]
    assert [output.code for output in outputs] == [0, 0], outputs[0].err
    assert outputs[0].out == outputs[1].out
    assert len(outputs[0].lines) == 8


@pytest.mark.parametrize("way", WAYS)
def test_5_updates_and_3_more_are_8_bit_for_bit(
    way: str, start: dict[str, Path], nmt: Nmt, data: Path, tmp_path: Path
) -> None:
    options: list[str | Path] = ["--data", data, *TINY, "--init-from", start["lstm"], *options_of(way)]
    for model, updates in (("whole", "8"), ("model", "5")):
        result = nmt("train", "--model", tmp_path / model, *options, "--max-updates", updates)
        assert result.code == 0, result.err
    result = nmt("train", "--model", tmp_path / "model", "--data", data, "--resume", "--max-updates", "8")
    assert result.code == 0, result.err
    assert_same_run(tmp_path / "model", tmp_path / "whole")


def test_each_loss_of_the_options_has_a_builder() -> None:
    assert list(build.LOSSES) == list(LOSSES)


def test_there_is_a_way_for_each_loss() -> None:
    assert {way.split()[0] for way in WAYS} | {"cross-entropy"} == set(LOSSES)


# options


OTHERS: dict[str, object] = {
    "loss_mix": 0.5,
    "teacher_forcing": 0.5,
    "teacher_forcing_decay": "linear",
    "teacher_forcing_half": 5,
    "greedy_passes": 2,
    "candidates": 3,
    "beam_growth": 5,
    "beam_cost": "bleu",
    "candidates_by": "samples",
    "with_reference": True,
    "reward": "chrf",
    "risk_alpha": 2.0,
}


@pytest.mark.parametrize("name", LOSS_OPTIONS)
@pytest.mark.parametrize("loss", LOSSES)
def test_an_option_that_a_loss_does_not_have_is_refused(loss: str, name: str, nmt: Nmt, tmp_path: Path) -> None:
    value = OTHERS[name]
    option = [option_name(name)] if value is True else [option_name(name), str(value)]
    if name == "teacher_forcing_half":
        option += ["--teacher-forcing-decay", "linear"]
    result = nmt("train", "--data", tmp_path / "none", "--loss", loss, *option)
    if loss in LOSS_OPTIONS[name]:
        assert "does not exist" in result.refusal(4)  # the options are valid; only the data is missing
    else:
        said = result.refusal(2)
        assert f"is for --loss {', '.join(LOSS_OPTIONS[name])}, but --loss is {loss}" in said


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--loss", "greedy", "--greedy-passes", "1"], "--greedy-passes 1"),
        (["--loss", "greedy", "--teacher-forcing-half", "5"], "--teacher-forcing-half"),
        (["--loss", "risk", "--candidates", "1"], "--candidates is 1"),
        (["--loss", "beam", "--word-dropout", "0.1"], "--word-dropout"),
        (["--loss", "beam", "--label-smoothing", "0.2"], "--label-smoothing"),
        (["--loss", "beam", "--candidates", "2", "--beam-growth", "9"], "--beam-growth"),
        (["--loss", "beam", "--validation-metric", "loss"], "--validation-metric"),
        (["--loss", "greedy", "--teacher-forcing", "1"], "--teacher-forcing 1"),
    ],
)
def test_what_a_loss_cannot_do_is_refused_before_anything_is_there(
    options: list[str], said: str, nmt: Nmt, data: Path, tmp_path: Path
) -> None:
    assert said in nmt("train", "--data", data, "--model", tmp_path / "model", *TINY, *options).refusal(2)
    assert not (tmp_path / "model").exists()


def test_the_help_lists_the_losses(nmt: Nmt) -> None:
    said = nmt("train", "--help").out.decode()
    for loss in LOSSES:
        assert f"\n    {loss} " in said


# translation by logits


@pytest.fixture(scope="module")
def by_logits(start: dict[str, Path], nmt: Nmt, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = tmp_path_factory.mktemp("logits") / "model"
    options: list[str | Path] = ["--init-from", start["lstm"], "--max-updates", "4", *options_of("beam")]
    assert nmt("train", "--data", data, "--model", model, *TINY, *options).code == 0
    return model


def test_the_model_directory_says_that_scores_are_logits(by_logits: Path, start: dict[str, Path]) -> None:
    assert LOSSES_OF_LOGITS == ("beam",)
    assert json.loads((by_logits / "config.json").read_text(encoding="utf-8"))["training"]["loss"] == "beam"
    assert StoredModel.open(by_logits).record.searches_by_logits
    assert not StoredModel.open(start["lstm"]).record.searches_by_logits


def test_a_hypothesis_is_scored_by_the_logit_of_its_last_token(by_logits: Path, nmt: Nmt) -> None:
    result = nmt("translate", "--model", by_logits, "--beam", "4", "--nbest", "3", stdin=b"1 2 3\n4\n")
    assert result.code == 0, result.err
    directory = StoredModel.open(str(by_logits))
    source, target = directory.subwords()
    model = directory.read_model().eval()
    rows = [line.split(" ||| ") for line in result.out.decode().splitlines()]
    assert [row[0] for row in rows].count("0") == 3
    for number, line in enumerate(("1 2 3", "4")):
        scores = [float(row[3]) for row in rows if row[0] == str(number)]
        assert scores == sorted(scores, reverse=True)
        assert [row[2] for row in rows] == [row[3] for row in rows]
        config = SearchConfig(beam=4)
        rules = SearchRules.from_config(config, wanted=3, scoring=Scoring.LOGIT)
        searcher = ModelSearcher([model], rules, target.forbidden_ids, device=torch.device("cpu"))
        translator = LineTranslator(searcher, SubwordPair(source, target), config)
        for candidate, score in zip(translator.translate([line])[0].candidates, scores, strict=True):
            batch = Batch.of([(source.encode(line), candidate.hypothesis.ids)])
            with torch.no_grad():
                memory, state = model.encode(batch.source_BS, batch.source_mask_BS)
                logits_TV = model.logits(model.decode(memory, state, batch.target_input_BT))[0]
            assert float(logits_TV[len(candidate.hypothesis.ids) - 1, 3]) == pytest.approx(score, abs=1e-3)


@pytest.mark.parametrize("option", [["--length-penalty", "0.6"], ["--coverage-penalty", "0.2"]], ids=lambda one: one[0])
def test_penalties_of_log_probabilities_are_refused(option: list[str], by_logits: Path, nmt: Nmt) -> None:
    said = nmt("translate", "--model", by_logits, *option, stdin=b"1\n").refusal(2)
    assert option[0] in said
    assert "--loss beam" in said


def test_an_ensemble_of_both_kinds_is_refused_and_one_of_a_kind_translates(
    by_logits: Path, start: dict[str, Path], nmt: Nmt
) -> None:
    both = ("--model", by_logits, "--model", start["lstm"])
    assert "--loss beam" in nmt("translate", *both, stdin=b"1\n").refusal(2)
    twice = nmt("translate", "--model", by_logits, "--model", by_logits, stdin=b"1 2\n3\n")
    assert twice.out == nmt("translate", "--model", by_logits, stdin=b"1 2\n3\n").out


def test_forced_decoding_warns_of_probabilities_that_are_none(by_logits: Path, nmt: Nmt, tmp_path: Path) -> None:
    (tmp_path / "s").write_text("1\n", encoding="utf-8")
    result = nmt("score", "--model", by_logits, "--source", tmp_path / "s", "--ref", tmp_path / "s")
    assert result.code == 0
    assert "--loss beam" in result.err
