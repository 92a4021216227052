"""Validation measures what `nmt translate` and `nmt score` would, and leaves nothing behind."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from nmtcli.config import ModelConfig, TrainConfig
from nmtcli.data.corpus import DataDirectory
from nmtcli.data.subword import BOS
from nmtcli.errors import NmtError
from nmtcli.scoring.metrics import Score
from nmtcli.search.translator import SubwordPair
from nmtcli.store.reader import StoredModel
from nmtcli.training.assembly import begun
from nmtcli.training.distributed import World
from nmtcli.training.validation import Validation, Validator
from tests.conftest import Nmt, digits_and_words, log_of
from tests.training.on_cpu import ON_CPU

PAIRS = digits_and_words(12, seed=9)


def validator(data: Path, pairs: list[tuple[str, str]], *, batch_tokens: int = 30, samples: int = 3) -> Validator:
    directory = DataDirectory.open(data)
    config = TrainConfig(validation_beam=1, show=samples)
    record = begun(ModelConfig(), config, directory, "fp32").stored.record
    text = SubwordPair(directory.source_subword, directory.target_subword)
    return Validator(pairs, text, record, config, batch_tokens=batch_tokens, machine=ON_CPU, world=World())


def loss_by_hand(trained: Path, pairs: list[tuple[str, str]]) -> float:
    """One pair at a time, all logits at once."""
    directory = StoredModel.open(trained)
    model = directory.read_model().eval()
    source, target = directory.subwords()
    total, tokens = 0.0, 0
    for source_line, target_line in pairs:
        source_1S = torch.tensor([source.encode(source_line)])
        output_T = torch.tensor(target.encode(target_line))
        input_1T = torch.cat([torch.tensor([BOS]), output_T[:-1]]).unsqueeze(0)
        with torch.no_grad():
            logits_1TV = model.logits(
                model.decode(*model.encode(source_1S, torch.ones_like(source_1S).bool()), input_1T)
            )
        total += float(F.cross_entropy(logits_1TV[0], output_T, reduction="sum"))
        tokens += len(output_T)
    return total / tokens


def test_the_loss_is_the_mean_over_all_target_tokens_whatever_the_batches(trained: Path, data: Path) -> None:
    model = StoredModel.open(trained).read_model()
    expected = loss_by_hand(trained, PAIRS)
    for batch_tokens in (1, 30, 10_000):
        validation = validator(data, PAIRS, batch_tokens=batch_tokens)(model)
        assert validation.loss == pytest.approx(expected, rel=1e-5)
        assert validation.perplexity == pytest.approx(math.exp(expected), rel=1e-5)


def test_a_pair_with_a_blank_side_has_no_part_in_the_loss_but_is_scored(trained: Path, data: Path) -> None:
    model = StoredModel.open(trained).read_model()
    whole = validator(data, PAIRS)(model)
    blank = validator(data, [("", "one"), *PAIRS, ("7", " "), ("", "")])(model)
    assert blank.loss == pytest.approx(whole.loss, rel=1e-6)
    assert blank.chrf.value < whole.chrf.value


def test_pairs_without_one_that_is_whole_are_refused_before_training(data: Path) -> None:
    with pytest.raises(NmtError, match="validation"):
        validator(data, [("", "one"), ("2", "\u2028")])


def test_validation_leaves_random_numbers_and_mode_as_they_were(trained: Path, data: Path) -> None:
    model = StoredModel.open(trained).read_model()
    validate = validator(data, PAIRS)
    for training in (True, False):
        model.train(training)
        torch.manual_seed(3)
        before = torch.get_rng_state()
        validate(model)
        assert torch.equal(torch.get_rng_state(), before)
        assert model.training == training
        assert all(parameter.grad is None for parameter in model.parameters())


def test_validation_gives_the_same_each_time_and_shows_the_same_sentences(trained: Path, data: Path) -> None:
    model = StoredModel.open(trained).read_model().train()
    validate = validator(data, PAIRS, samples=4)
    first = validate(model)
    assert validate(model) == first
    assert len(first.samples) == 4
    assert {(sample.source, sample.reference) for sample in first.samples} < set(PAIRS)
    assert len(validator(data, PAIRS[:2], samples=4)(model).samples) == 2


@pytest.mark.parametrize("name", ["", "update-00000050"])
def test_bleu_and_chrf_of_a_validation_are_those_of_translate_and_score(
    name: str, trained: Path, corpus: Path, tmp_path: Path, nmt: Nmt
) -> None:
    validations = log_of(trained, "validation")
    wanted = [one for one in validations if (one["update"] == 50 if name else one["best"])][-1]
    options = ["--checkpoint", name] if name else []
    text = (corpus / "valid.num").read_bytes()
    translated = nmt("translate", "--model", trained, "--beam", "1", *options, "--threads", "1", stdin=text)
    assert translated.code == 0
    scored = nmt("score", "--ref", corpus / "valid.en", "--target-lang", "en", "--json", stdin=translated.out)
    scores = json.loads(scored.out)["systems"][0]["scores"]
    for key, metric in (("bleu", "BLEU"), ("chrf", "chrF2")):
        assert wanted[key] == pytest.approx(scores[metric]["score"], abs=1e-9)
        assert wanted[f"{key}_signature"] == scores[metric]["signature"]
    assert wanted["bleu"] > 1  # a model that says nothing would pass the rest
    assert wanted["perplexity"] == pytest.approx(math.exp(wanted["loss"]))


@pytest.mark.parametrize(
    ("metric", "value", "best", "is_better"),
    [
        ("loss", 2.0, None, True),
        ("loss", 2.0, 2.1, True),
        ("loss", 2.0, 2.0, False),
        ("loss", 2.0, 1.9, False),
        ("bleu", 2.0, None, True),
        ("bleu", 2.0, 1.9, True),
        ("bleu", 2.0, 2.0, False),
        ("chrf", 2.0, 2.1, False),
        ("chrf", 0.0, None, True),
    ],
)
def test_a_lower_loss_is_better_and_a_higher_score(
    metric: str, value: float, best: float | None, is_better: bool
) -> None:
    others = {"loss": 3.0, "bleu": 4.0, "chrf": 5.0, metric: value}
    score = {name: Score(name=name, value=others[name], signature="") for name in ("bleu", "chrf")}
    validation = Validation(loss=others["loss"], perplexity=1.0, samples=[], **score)
    assert validation.better_than(best, metric) is is_better
    assert validation.value(metric) == value
