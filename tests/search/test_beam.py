"""Beam search equals exhaustive enumeration on tiny models, and plain beam search one sentence at a time."""

import itertools
import math
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from nmtcli.search.graphs import Graphs
from nmtcli.search.host import Hypothesis, Scoring, SearchBatch, SearchRules, length_penalty, run_search
from nmtcli.search.rules import BeamProgram, Choices, Runner, coverage_penalty
from nmtcli.search.sampling import StepwiseProgram

BOS, EOS, V = 0, 1, 4
S = 3
CPU = torch.device("cpu")
Attention = npt.NDArray[np.floating]


class Prefixes(NamedTuple):
    """State of the toy model: sentence and prefix of each hypothesis, as numbers."""

    sentence_BK: Tensor
    prefix_BKT: Tensor

    def select(self, sentences_B: Tensor | None, parents_BK: Tensor) -> Self:
        sentence_BK, prefix_BKT = self
        if sentences_B is not None:
            sentence_BK, prefix_BKT = sentence_BK[sentences_B], prefix_BKT[sentences_B]
        row_B1 = torch.arange(len(parents_BK)).unsqueeze(1)
        return self._replace(sentence_BK=sentence_BK[row_B1, parents_BK], prefix_BKT=prefix_BKT[row_B1, parents_BK])


def distribution(sentence: int, prefix: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Return log_probs_V and attention weights_S of a toy model whose output depends on the whole prefix."""
    seed = hash((sentence, *prefix)) % 2**31
    generator = torch.Generator().manual_seed(seed)
    log_probs_V = (2 * torch.randn(V, generator=generator, dtype=torch.float64)).log_softmax(0)
    return log_probs_V, torch.rand(S, generator=generator, dtype=torch.float64).softmax(0)


class Toy:
    """The toy model. The source of a sentence is its number, repeated S times."""

    def __init__(self, forbidden: list[int], *, is_nan: bool = False) -> None:
        self.forbidden = forbidden
        self.factor = math.nan if is_nan else 1.0

    def start(self, source_BS: Tensor, mask_BS: Tensor, hypotheses: int) -> Prefixes:
        sentence_BK = source_BS[:, :1].expand(-1, hypotheses)
        return Prefixes(sentence_BK, torch.empty(len(source_BS), hypotheses, 0, dtype=torch.long))

    def step(self, tokens_BK: Tensor, state: Prefixes, count: int | None) -> tuple[Choices, Tensor, Prefixes]:
        log_probs_BKV, weights_BKS, state = everything(tokens_BK, state)
        eos_BK = log_probs_BKV[..., EOS].clone()
        log_probs_BKV[..., self.forbidden] = -torch.inf
        best_BKC, ids_BKC = log_probs_BKV.topk(min(count or V, V))
        return Choices(best_BKC * self.factor, ids_BKC, eos_BK * self.factor), weights_BKS, state


def everything(tokens_BK: Tensor, state: Prefixes) -> tuple[Tensor, Tensor, Prefixes]:
    prefix_BKT = torch.cat([state.prefix_BKT, tokens_BK.unsqueeze(-1)], dim=2)
    answers = [
        [distribution(sentence, tuple(prefix)) for sentence, prefix in zip(sentences, prefixes, strict=True)]
        for sentences, prefixes in zip(state.sentence_BK.tolist(), prefix_BKT.tolist(), strict=True)
    ]
    log_probs_BKV = torch.stack([torch.stack([one for one, _ in row]) for row in answers])
    weights_BKS = torch.stack([torch.stack([one for _, one in row]) for row in answers])
    return log_probs_BKV, weights_BKS, state._replace(prefix_BKT=prefix_BKT)


def batch_of(sentences: list[int], longest: list[int]) -> SearchBatch:
    return SearchBatch([[sentence] * S for sentence in sentences], [0] * len(sentences), longest)


def enumerate_all(sentence: int, longest: int, alpha: float, beta: float, forbidden: set[int]) -> list[Hypothesis]:
    """List all sequences that end in EOS within the limit, with scores by the formulas, best first."""
    words = [token for token in range(V) if token not in {EOS, *forbidden}]
    found = []
    for length in range(1, longest + 1):
        for body in itertools.product(words, repeat=length - 1):
            ids = [*body, EOS]
            total, coverage = 0.0, [0.0] * S
            for t, token in enumerate(ids):
                log_probs_V, weights_S = distribution(sentence, (BOS, *ids[:t]))
                total += float(log_probs_V[token])
                coverage = [have + float(more) for have, more in zip(coverage, weights_S, strict=True)]
            score = total / ((5 + length) / 6) ** alpha + beta * sum(math.log(min(one, 1.0)) for one in coverage)
            found.append(Hypothesis(ids, total, score, None))
    return sorted(found, key=lambda one: -one.score)


def search(
    sentences: list[int],
    beam: int,
    longest: list[int],
    *,
    forbidden: tuple[int, ...] = (BOS,),
    runner: Runner | None = None,
    **options: Any,
) -> list[list[Hypothesis]]:
    rules = SearchRules(beam=beam, bos=BOS, eos=EOS, **options)
    program = BeamProgram(Toy([*forbidden]), rules, device=CPU, runner=runner)
    return run_search(program, batch_of(sentences, longest))


def assert_same_attention(found_TS: Attention | None, expected_TS: Attention | None) -> None:
    assert found_TS is not None
    assert expected_TS is not None
    np.testing.assert_allclose(found_TS, expected_TS, rtol=1e-5)


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0, 2.0])
@pytest.mark.parametrize("beta", [0.0, 0.4])
@pytest.mark.parametrize("longest", [1, 2, 4])
def test_a_beam_that_holds_every_prefix_is_exhaustive_search(alpha: float, beta: float, longest: int) -> None:
    for sentence in range(8):
        expected = enumerate_all(sentence, longest, alpha, beta, {BOS})
        wanted = min(3, len(expected))
        (found,) = search([sentence], 64, [longest], alpha=alpha, beta=beta, best=wanted)
        for one, other in zip(found[:wanted], expected[:wanted], strict=True):
            assert one.ids == other.ids
            assert one.log_probability == pytest.approx(other.log_probability, abs=1e-5)
            assert one.score == pytest.approx(other.score, abs=1e-5)


def test_forbidden_ids_are_disallowed_and_their_probability_goes_to_nobody() -> None:
    for sentence in range(8):
        expected = enumerate_all(sentence, 4, 0.6, 0.0, {BOS, 3})
        (found,) = search([sentence], 64, [4], alpha=0.6, forbidden=(BOS, 3))
        assert found[0].ids == expected[0].ids
        assert found[0].log_probability == pytest.approx(expected[0].log_probability, abs=1e-5)


def naive_beam_search(
    sentence: int, beam: int, longest: int, alpha: float, *, scoring: Scoring = Scoring.LOG_PROBABILITY
) -> list[Hypothesis]:
    """Beam search for one sentence with lists, as a reference for the tensor program."""
    live: list[tuple[float, list[int]]] = [(0.0, [])]
    finished: list[Hypothesis] = []
    for length in range(1, longest + 1):
        grown = []
        for total, ids in live:
            log_probs = distribution(sentence, (BOS, *ids))[0].tolist()
            tokens = [EOS] if length == longest else [token for token in range(V) if token != BOS]
            before = total if scoring is Scoring.LOG_PROBABILITY else 0.0
            grown += [(before + log_probs[token], [*ids, token]) for token in tokens]
        grown.sort(key=lambda one: -one[0])
        finished += [
            Hypothesis(ids, total, total / length_penalty(length, alpha), None)
            for total, ids in grown[:beam]
            if ids[-1] == EOS
        ]
        finished.sort(key=lambda one: -one.score)
        live = [one for one in grown if one[1][-1] != EOS][:beam]
        if len(finished) >= beam or not live:
            break
        reachable = live[0][0] / length_penalty(longest, alpha)
        if scoring is Scoring.LOG_PROBABILITY and finished and finished[0].score >= reachable:
            break
    return finished[:beam]


@pytest.mark.parametrize("beam", [1, 2, 3, 5])
def test_scores_of_whole_hypotheses_are_not_summed_and_may_rise(beam: int) -> None:
    sentences, longest = list(range(20)), [3 + number % 5 for number in range(20)]
    found = search(sentences, beam, longest, scoring=Scoring.LOGIT)
    for sentence, limit, hypotheses in zip(sentences, longest, found, strict=True):
        expected = naive_beam_search(sentence, beam, limit, 0.0, scoring=Scoring.LOGIT)
        assert [one.ids for one in hypotheses] == [one.ids for one in expected]
        for one in hypotheses:
            last = float(distribution(sentence, (BOS, *one.ids[:-1]))[0][EOS])
            assert one.score == one.log_probability == pytest.approx(last, abs=1e-5)


def test_greedy_search_by_such_scores_ends_with_the_last_one() -> None:
    (found,) = zip(*search_greedily(list(range(10)), [6] * 10, scoring=Scoring.LOGIT), strict=True)
    for sentence, one in enumerate(found):
        assert one.score == pytest.approx(float(distribution(sentence, (BOS, *one.ids[:-1]))[0][EOS]), abs=1e-5)
    (summed,) = zip(*search_greedily(list(range(10)), [6] * 10), strict=True)
    assert [one.ids for one in summed] == [one.ids for one in found]


def search_greedily(sentences: list[int], longest: list[int], **options: Any) -> list[list[Hypothesis]]:
    rules = SearchRules(beam=1, bos=BOS, eos=EOS, **options)
    return run_search(StepwiseProgram(Toy([BOS]), rules, device=CPU), batch_of(sentences, longest))


@pytest.mark.parametrize("beam", [1, 2, 3, 5])
@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_a_batch_of_sentences_equals_naive_beam_search_of_each(beam: int, alpha: float) -> None:
    sentences, longest = list(range(20)), [3 + number % 5 for number in range(20)]
    found = search(sentences, beam, longest, alpha=alpha)
    for sentence, limit, hypotheses in zip(sentences, longest, found, strict=True):
        expected = naive_beam_search(sentence, beam, limit, alpha)
        assert [one.ids for one in hypotheses] == [one.ids for one in expected]
        for one, other in zip(hypotheses, expected, strict=True):
            assert one.score == pytest.approx(other.score, abs=1e-5)


@pytest.mark.parametrize("beam", [1, 3])
@pytest.mark.parametrize("options", [{"alpha": 1.0}, {"beta": 0.3, "with_attention": True}, {"scoring": Scoring.LOGIT}])
def test_fixed_shapes_find_the_same(beam: int, options: dict[str, Any]) -> None:
    """With padded rows, and finished sentences that stay for some steps."""
    sentences, longest = list(range(20)), [3 + 7 * number % 11 for number in range(20)]
    found, expected = (search(sentences, beam, longest, runner=runner, **options) for runner in (Graphs(), None))
    for some, others in zip(found, expected, strict=True):
        for one, other in zip(some, others, strict=True):
            assert one.ids == other.ids
            assert one.score == pytest.approx(other.score, abs=1e-6)
            if options.get("with_attention"):
                assert_same_attention(one.attention_TS, other.attention_TS)


@pytest.mark.parametrize("runner", [Graphs(), None])
def test_a_search_ends_where_scores_are_no_numbers(runner: Graphs | None) -> None:
    rules = SearchRules(beam=3, bos=BOS, eos=EOS)
    program = BeamProgram(Toy([BOS], is_nan=True), rules, device=CPU, runner=runner)
    assert run_search(program, batch_of([0, 1], [2, 5])) == [[], []]


def test_beam_one_equals_greedy_search() -> None:
    sentences, longest = list(range(30)), [2 + number % 6 for number in range(30)]
    by_beam = search(sentences, 1, longest, alpha=0.7, with_attention=True)
    greedy = search_greedily(sentences, longest, alpha=0.7, with_attention=True)
    for (one,), (other,) in zip(by_beam, greedy, strict=True):
        assert one.ids == other.ids
        assert one.log_probability == pytest.approx(other.log_probability, abs=1e-5)
        assert one.score == pytest.approx(other.score, abs=1e-5)
        assert_same_attention(one.attention_TS, other.attention_TS)


def test_attention_is_that_of_the_hypothesis_and_not_of_its_neighbours() -> None:
    for (best, *_), sentence in zip(search(list(range(6)), 3, [5] * 6, with_attention=True), range(6), strict=True):
        expected_TS = torch.stack([distribution(sentence, (BOS, *best.ids[:t]))[1] for t in range(len(best.ids))])
        assert_same_attention(best.attention_TS, expected_TS.numpy())


def test_length_limit_is_each_sentences_own() -> None:
    sentences, limits = list(range(20)), [1 + number % 4 for number in range(20)]
    limited, unlimited = search(sentences, 2, limits), search(sentences, 2, [20] * 20)
    for some, limit in zip(limited, limits, strict=True):
        assert some
        assert max(len(one.ids) for one in some) <= limit
    assert {tuple(one.ids) for some in limited[::4] for one in some} == {(EOS,)}
    longer = [len(some[0].ids) > limit for some, limit in zip(unlimited, limits, strict=True)]
    assert sum(longer) > 5  # check that the limits have an effect


def test_coverage_penalty_does_not_count_padding() -> None:
    coverage_BKS = torch.tensor([[[0.5, 2.0, 0.0]]])
    mask_BS = torch.tensor([[True, True, False]])
    assert float(coverage_penalty(coverage_BKS, mask_BS, 0.2)) == pytest.approx(0.2 * math.log(0.5))
