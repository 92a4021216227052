"""Beam search equals exhaustive enumeration on tiny models, and plain beam search one sentence at a time."""

import itertools
import math
from typing import Any, NamedTuple, Self

import pytest
import torch
from torch import Tensor

from nmtcli.search.beam import Choices, Hypothesis, beam_search, coverage_penalty, length_penalty
from nmtcli.search.graphs import Graphs
from nmtcli.search.sampling import step_by_step

BOS, EOS, V = 0, 1, 4
S = 3


class Prefixes(NamedTuple):
    """State of the toy model: every hypothesis's sentence and prefix, as numbers."""

    sentence_BK: Tensor
    prefix_BKT: Tensor

    def select(self, sentences_B: Tensor | None, parents_BK: Tensor) -> Self:
        sentence_BK, prefix_BKT = self
        if sentences_B is not None:
            sentence_BK, prefix_BKT = sentence_BK[sentences_B], prefix_BKT[sentences_B]
        row_B1 = torch.arange(len(parents_BK)).unsqueeze(1)
        return self._replace(sentence_BK=sentence_BK[row_B1, parents_BK], prefix_BKT=prefix_BKT[row_B1, parents_BK])


def distribution(sentence: int, prefix: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """log_probs_V and attention weights_S of a toy model in which everything depends on everything before."""
    seed = hash((sentence, *prefix)) % 2**31
    generator = torch.Generator().manual_seed(seed)
    log_probs_V = (2 * torch.randn(V, generator=generator, dtype=torch.float64)).log_softmax(0)
    return log_probs_V, torch.rand(S, generator=generator, dtype=torch.float64).softmax(0)


class Step:
    """The toy model's step function."""

    def __init__(self, forbidden: list[int]) -> None:
        self.forbidden = forbidden

    def __call__(self, tokens_BK: Tensor, state: Prefixes, count: int | None) -> tuple[Choices, Tensor, Prefixes]:
        log_probs_BKV, weights_BKS, state = everything(tokens_BK, state)
        eos_BK = log_probs_BKV[..., EOS].clone()
        log_probs_BKV[..., self.forbidden] = -torch.inf
        best_BKC, ids_BKC = log_probs_BKV.topk(min(count or V, V))
        return Choices(best_BKC, ids_BKC, eos_BK), weights_BKS, state


def everything(tokens_BK: Tensor, state: Prefixes) -> tuple[Tensor, Tensor, Prefixes]:
    prefix_BKT = torch.cat([state.prefix_BKT, tokens_BK.unsqueeze(-1)], dim=2)
    answers = [
        [distribution(sentence, tuple(prefix)) for sentence, prefix in zip(sentences, prefixes, strict=True)]
        for sentences, prefixes in zip(state.sentence_BK.tolist(), prefix_BKT.tolist(), strict=True)
    ]
    log_probs_BKV = torch.stack([torch.stack([one for one, _ in row]) for row in answers])
    weights_BKS = torch.stack([torch.stack([one for _, one in row]) for row in answers])
    return log_probs_BKV, weights_BKS, state._replace(prefix_BKT=prefix_BKT)


def start(sentences: list[int], beam: int) -> Prefixes:
    sentence_BK = torch.tensor(sentences).unsqueeze(1).expand(-1, beam)
    return Prefixes(sentence_BK, torch.empty(len(sentences), beam, 0, dtype=torch.long))


def enumerate_all(sentence: int, longest: int, alpha: float, beta: float, forbidden: set[int]) -> list[Hypothesis]:
    """Every sequence that ends in EOS within the limit, with its score by the formulas, best first."""
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
    sentences: list[int], beam: int, longest: list[int], forbidden: tuple[int, ...] = (BOS,), **options: Any
) -> list[list[Hypothesis]]:
    return beam_search(
        Step([*forbidden]),
        start(sentences, beam),
        source_mask_BS=torch.ones(len(sentences), S, dtype=torch.bool),
        max_lengths_B=torch.tensor(longest),
        beam=beam,
        bos=BOS,
        eos=EOS,
        **options,
    )


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


def test_forbidden_ids_are_never_said_and_their_probability_goes_to_nobody() -> None:
    for sentence in range(8):
        expected = enumerate_all(sentence, 4, 0.6, 0.0, {BOS, 3})
        (found,) = search([sentence], 64, [4], alpha=0.6, forbidden=(BOS, 3))
        assert found[0].ids == expected[0].ids
        assert found[0].log_probability == pytest.approx(expected[0].log_probability, abs=1e-5)


def naive_beam_search(
    sentence: int, beam: int, longest: int, alpha: float, *, accumulates: bool = True
) -> list[Hypothesis]:
    """The rules of beam search for one sentence with lists: what the tensor program must do."""
    live: list[tuple[float, list[int]]] = [(0.0, [])]
    finished: list[Hypothesis] = []
    for length in range(1, longest + 1):
        grown = []
        for total, ids in live:
            log_probs = distribution(sentence, (BOS, *ids))[0].tolist()
            tokens = [EOS] if length == longest else [token for token in range(V) if token != BOS]
            before = total if accumulates else 0.0
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
        if accumulates and finished and finished[0].score >= live[0][0] / length_penalty(longest, alpha):
            break
    return finished[:beam]


@pytest.mark.parametrize("beam", [1, 2, 3, 5])
def test_scores_of_whole_hypotheses_are_not_summed_and_may_rise(beam: int) -> None:
    sentences, longest = list(range(20)), [3 + number % 5 for number in range(20)]
    found = search(sentences, beam, longest, accumulates=False)
    for sentence, limit, hypotheses in zip(sentences, longest, found, strict=True):
        expected = naive_beam_search(sentence, beam, limit, 0.0, accumulates=False)
        assert [one.ids for one in hypotheses] == [one.ids for one in expected]
        for one in hypotheses:
            last = float(distribution(sentence, (BOS, *one.ids[:-1]))[0][EOS])
            assert one.score == one.log_probability == pytest.approx(last, abs=1e-5)


def test_greedy_search_by_such_scores_ends_with_the_last_one() -> None:
    (found,) = zip(*search_greedily(range(10), accumulates=False), strict=True)
    for sentence, one in enumerate(found):
        assert one.score == pytest.approx(float(distribution(sentence, (BOS, *one.ids[:-1]))[0][EOS]), abs=1e-5)
    (summed,) = zip(*search_greedily(range(10), accumulates=True), strict=True)
    assert [one.ids for one in summed] == [one.ids for one in found]


def search_greedily(sentences: range, *, accumulates: bool) -> list[list[Hypothesis]]:
    return step_by_step(
        Step([BOS]),
        start(list(sentences), 1),
        source_mask_BS=torch.ones(len(sentences), S, dtype=torch.bool),
        max_lengths_B=torch.full((len(sentences),), 6),
        bos=BOS,
        eos=EOS,
        accumulates=accumulates,
    )


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
@pytest.mark.parametrize("options", [{"alpha": 1.0}, {"beta": 0.3, "with_attention": True}, {"accumulates": False}])
def test_fixed_shapes_find_the_same(beam: int, options: dict[str, Any]) -> None:
    """Where rows are padded, and sentences that are done stay for some steps."""
    sentences, longest = list(range(20)), [3 + 7 * number % 11 for number in range(20)]
    found, expected = (search(sentences, beam, longest, runner=runner, **options) for runner in (Graphs(), None))
    for some, others in zip(found, expected, strict=True):
        for one, other in zip(some, others, strict=True):
            assert one.ids == other.ids
            assert one.score == pytest.approx(other.score, abs=1e-6)
            if options.get("with_attention"):
                torch.testing.assert_close(one.attention_TS, other.attention_TS)


@pytest.mark.parametrize("runner", [Graphs(), None])
def test_a_search_ends_where_scores_are_no_numbers(runner: Graphs | None) -> None:
    def step(tokens_BK: Tensor, state: Prefixes, count: int | None) -> tuple[Choices, Tensor, Prefixes]:
        (log_probs_BKC, ids_BKC, eos_BK), weights_BKS, state = Step([BOS])(tokens_BK, state, count)
        return Choices(log_probs_BKC * torch.nan, ids_BKC, eos_BK * torch.nan), weights_BKS, state

    found = beam_search(
        step,
        start([0, 1], 3),
        source_mask_BS=torch.ones(2, S, dtype=torch.bool),
        max_lengths_B=torch.tensor([2, 5]),
        beam=3,
        bos=BOS,
        eos=EOS,
        runner=runner,
    )
    assert found == [[], []]


def test_beam_one_equals_greedy_search() -> None:
    sentences, longest = list(range(30)), [2 + number % 6 for number in range(30)]
    by_beam = search(sentences, 1, longest, alpha=0.7, with_attention=True)
    greedy = step_by_step(
        Step([BOS]),
        start(sentences, 1),
        source_mask_BS=torch.ones(30, S, dtype=torch.bool),
        max_lengths_B=torch.tensor(longest),
        bos=BOS,
        eos=EOS,
        alpha=0.7,
        with_attention=True,
    )
    for (one,), (other,) in zip(by_beam, greedy, strict=True):
        assert one.ids == other.ids
        assert one.log_probability == pytest.approx(other.log_probability, abs=1e-5)
        assert one.score == pytest.approx(other.score, abs=1e-5)
        torch.testing.assert_close(one.attention_TS, other.attention_TS, check_dtype=False)


def test_attention_is_that_of_the_hypothesis_and_not_of_its_neighbours() -> None:
    for (best, *_), sentence in zip(search(list(range(6)), 3, [5] * 6, with_attention=True), range(6), strict=True):
        expected_TS = torch.stack([distribution(sentence, (BOS, *best.ids[:t]))[1] for t in range(len(best.ids))])
        torch.testing.assert_close(best.attention_TS, expected_TS, check_dtype=False)


def test_length_limit_is_each_sentences_own() -> None:
    found = search([1, 1, 1], 2, [1, 3, 6])
    assert [
        max(len(one.ids) for one in hypotheses) <= limit for hypotheses, limit in zip(found, [1, 3, 6], strict=True)
    ]
    assert found[0][0].ids == [EOS]


def test_coverage_penalty_does_not_count_padding() -> None:
    coverage_BKS = torch.tensor([[[0.5, 2.0, 0.0]]])
    mask_BS = torch.tensor([[True, True, False]])
    assert float(coverage_penalty(coverage_BKS, mask_BS, 0.2)) == pytest.approx(0.2 * math.log(0.5))
