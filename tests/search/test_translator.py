"""A line's translation depends on that line alone, and search and forced decoding agree on its log-probability."""

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nmtcli.config import SearchConfig
from nmtcli.data.subword import Subword
from nmtcli.model.seq2seq import Seq2Seq
from nmtcli.scoring.forced import log_probabilities
from nmtcli.search.host import EXTRA_LENGTH, SearchBatch, SearchRules
from nmtcli.search.model_searcher import ModelSearcher, choose_scoring
from nmtcli.search.searchers import Found, WorkerSearcher
from nmtcli.search.translator import LineTranslator, SubwordPair, Translation
from nmtcli.store.reader import StoredModel

LINES = ["3 1 4", "", "1 5 9 2 6 5", " \t ", "2 7", "1", "8 2 8 1 8 2 8", "x"]
CPU = torch.device("cpu")


Parts = tuple[Seq2Seq, Subword, Subword]


@pytest.fixture(scope="module")
def directory(trained: Path) -> StoredModel:
    return StoredModel.open(trained)


@pytest.fixture(scope="module")
def parts(directory: StoredModel) -> Parts:
    return directory.read_model().eval(), *directory.subwords()


def searcher_of(
    models: list[Seq2Seq], target: Subword, config: SearchConfig, *, wanted: int = 1, with_scores: bool = True
) -> ModelSearcher:
    scoring = choose_scoring(config, CPU, models=len(models), by_logits=False, with_scores=with_scores)
    rules = SearchRules.from_config(config, wanted=wanted, scoring=scoring)
    return ModelSearcher(models, rules, target.forbidden_ids, device=CPU)


def translator_of(models: list[Seq2Seq], parts: Parts, config: SearchConfig, **options: Any) -> LineTranslator:
    _, source, target = parts
    return LineTranslator(searcher_of(models, target, config, **options), SubwordPair(source, target), config)


def translate(parts: Parts, lines: list[str], **options: Any) -> list[Translation]:
    wanted = options.pop("wanted", 1)
    return translator_of([parts[0]], parts, SearchConfig(**options), wanted=wanted).translate(lines)


@pytest.mark.parametrize(
    "options",
    [
        {"beam": 1},
        {"beam": 5, "wanted": 5},
        {"beam": 3, "wanted": 2, "coverage_penalty": 0.3, "length_penalty": 0.6},
        {"sample": True, "wanted": 3, "temperature": 1.5, "top_k": 20},
    ],
    ids=["greedy", "beam", "penalties", "samples"],
)
def test_forced_decoding_gives_the_log_probability_that_search_gave(parts: Parts, options: dict[str, object]) -> None:
    translations = translate(parts, LINES, **options)
    pairs, searched = [], []
    for translation in translations:
        for candidate in translation.candidates:
            pairs.append((translation.source_ids, candidate.hypothesis.ids))
            searched.append(candidate.hypothesis.log_probability)
    assert len(pairs) >= 6
    forced = log_probabilities(parts[0], pairs, batch_tokens=40, device=CPU)
    assert searched == pytest.approx(forced, abs=1e-4)


@pytest.mark.parametrize("options", [{"beam": 1}, {"beam": 4}, {"sample": True, "wanted": 2}])
def test_a_line_becomes_the_same_in_any_batch(parts: Parts, options: dict[str, object]) -> None:
    lines = [" ".join(digits) for digits in itertools.product("1234567890", repeat=2)][::3] + LINES
    together = translate(parts, lines, batch_tokens=100_000, **dict(options))
    alone = translate(parts, lines, batch_tokens=1, **dict(options))
    assert [[one.text for one in t.candidates] for t in together] == [[one.text for one in t.candidates] for t in alone]


def test_beam_one_is_greedy_search_with_and_without_its_own_loop(parts: Parts) -> None:
    greedy = translate(parts, LINES, beam=1)
    sampled = translate(parts, LINES, sample=True, top_k=1)
    assert [one.text for one in greedy] == [one.text for one in sampled]


def test_greedy_search_finds_its_way_without_scores(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [one.text for one in translate(parts, LINES, beam=1)]

    def sums(*_: object) -> None:
        raise AssertionError("a sum over all tokens")

    monkeypatch.setattr("nmtcli.search.ensemble.log_sum_exp", sums)
    translator = translator_of([parts[0]], parts, SearchConfig(beam=1), with_scores=False)
    assert [one.text for one in translator.translate(LINES)] == expected
    for beam, with_scores in ((1, True), (2, False)):
        translator = translator_of([parts[0]], parts, SearchConfig(beam=beam), with_scores=with_scores)
        with pytest.raises(AssertionError, match="all tokens"):
            translator.translate(LINES)


@pytest.mark.parametrize(("searchers", "batch_tokens"), [(1, 40), (2, 40), (2, 10_000), (3, 40), (3, 200)])
def test_searchers_get_as_many_batches_each_of_about_the_same_size(
    parts: Parts, searchers: int, batch_tokens: int
) -> None:
    sizes: list[int] = []

    def search(batches: Iterable[SearchBatch]) -> Iterator[Found]:
        for batch in batches:
            assert max(map(len, batch.sources)) * len(batch.sources) <= batch_tokens
            sizes.append(sum(map(len, batch.sources)))
            yield searcher.search(batch)

    lines = [" ".join("3 1 4 1 5 9 2 6"[: 2 * length].split()) for length in range(1, 9)] * 6
    _, source, target = parts
    config = SearchConfig(beam=1, batch_tokens=batch_tokens)
    searcher = searcher_of([parts[0]], target, config)
    apart = WorkerSearcher(search, replace(searcher.sizes, at_once=searchers))
    ours, theirs = (
        LineTranslator(one, SubwordPair(source, target), config).translate(lines) for one in (apart, searcher)
    )
    assert [one.text for one in ours] == [one.text for one in theirs]
    fewest = math.ceil(sum(sizes) / batch_tokens)
    assert fewest <= len(sizes) <= 1.3 * fewest + searchers
    if batch_tokens > 100 and searchers > 1:
        assert len(sizes) % searchers == 0
        assert max(sizes) - min(sizes) <= 2 * 9


def test_blank_lines_come_out_empty_and_in_their_place(parts: Parts) -> None:
    translations = translate(parts, LINES)
    assert len(translations) == len(LINES)
    assert [not one.candidates for one in translations] == [not line.strip() for line in LINES]


def test_the_longest_output_is_a_rule_of_the_sentence(directory: StoredModel, parts: Parts) -> None:
    babbling = directory.new_model().eval()
    with torch.no_grad():
        babbling.projection_bias_V[3] = -1e4  # it never predicts EOS
    lines = ["1", "1 2 3 4 5 6 7 8"]
    config = SearchConfig(beam=2, max_length=2.0)
    for translation in translator_of([babbling], parts, config).translate(lines):
        (candidate,) = translation.candidates
        assert len(candidate.hypothesis.ids) == 2 * len(translation.source_ids) + EXTRA_LENGTH


def test_a_line_that_is_too_long_is_cut_and_says_so(parts: Parts) -> None:
    long, short = translate(parts, ["7 " * 50, "7 7"], max_source_length=5)
    assert (long.was_cut, short.was_cut) == (True, False)
    assert long.source_ids[:-1] == parts[1].encode("7 " * 50)[:5]
    assert long.source_ids[-1] == 3


def test_an_ensemble_of_a_model_with_itself_is_that_model(parts: Parts) -> None:
    config = SearchConfig(beam=3)
    alone = translator_of([parts[0]], parts, config).translate(LINES)
    twice = translator_of([parts[0], parts[0]], parts, config).translate(LINES)
    for one, other in zip(alone, twice, strict=True):
        assert one.text == other.text
        for candidate, same in zip(one.candidates, other.candidates, strict=True):
            assert candidate.hypothesis.log_probability == pytest.approx(same.hypothesis.log_probability, abs=1e-4)


def test_an_ensemble_predicts_the_mean_of_the_probabilities(directory: StoredModel, parts: Parts) -> None:
    model = parts[0]
    torch.manual_seed(11)
    other = directory.new_model().eval()
    (translation,) = translator_of([model, other], parts, SearchConfig(beam=1)).translate(["3 1 4"])
    ids = translation.candidates[0].hypothesis.ids
    total = 0.0
    with torch.no_grad():
        both = []
        for one in (model, other):
            source_BS = torch.tensor([translation.source_ids])
            memory, state = one.encode(source_BS, torch.ones_like(source_BS, dtype=torch.bool))
            readout = one.decode(memory, state, torch.tensor([[2, *ids[:-1]]]))
            both.append(one.logits(readout)[0].softmax(dim=-1))
        mean_TV = (both[0] + both[1]) / 2
        total = sum(float(mean_TV[t, token].log()) for t, token in enumerate(ids))
    assert translation.candidates[0].hypothesis.log_probability == pytest.approx(total, abs=1e-4)
