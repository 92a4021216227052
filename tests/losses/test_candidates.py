"""Losses over candidates: what they find, score and reward, and their formulas by hand."""

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from nmtcli.config import ModelConfig
from nmtcli.data.batches import Batch
from nmtcli.data.corpus import DataDirectory
from nmtcli.data.subword import EOS
from nmtcli.losses.candidates import Candidates, CandidateSearch, mean_log_probabilities
from nmtcli.losses.cross_entropy import CrossEntropy
from nmtcli.losses.interpolation import Interpolation
from nmtcli.losses.max_margin import MaxMargin, margin
from nmtcli.losses.risk import Risk, expected_risk
from nmtcli.losses.sequence_nll import SequenceNLL, nll_of_best
from nmtcli.losses.token_nll import token_nll
from nmtcli.model.seq2seq import Seq2Seq
from nmtcli.scoring.forced import log_probabilities
from nmtcli.scoring.sentence import Reward, sentence_bleu
from nmtcli.store.reader import StoredModel
from tests.oracles import PAIRS, assert_same_loss, gradients, tiny

MINUS = -math.inf


@pytest.fixture(scope="module")
def opened(data: Path) -> DataDirectory:
    return DataDirectory.open(data)


@pytest.fixture(scope="module")
def learnt(trained: Path) -> Seq2Seq:
    return StoredModel.open(trained).read_model().double()


@pytest.fixture(scope="module")
def batch(opened: DataDirectory) -> Batch:
    return Batch.of([opened.train[number] for number in range(6)])


def searcher(opened: DataDirectory, **options: Any) -> CandidateSearch:
    chosen: dict[str, Any] = {
        "count": 4,
        "by": "beam",
        "with_reference": False,
        "reward": Reward("bleu", "en"),
        **options,
    }
    return CandidateSearch(target=opened.target_subword, **chosen)


# formulas


def by_hand(scores: list[list[float]], rewards: list[list[float]]) -> Candidates:
    scores_BC = torch.tensor(scores, dtype=torch.float64, requires_grad=True)
    return Candidates(scores_BC, torch.tensor(rewards, dtype=torch.float64), scores_BC.detach().isfinite())


@pytest.mark.parametrize("alpha", [0.0, 0.5, 3.0])
def test_risk_is_the_expectation_over_the_candidates(alpha: float) -> None:
    scores, rewards = [[-0.5, -1.0, -0.2], [-2.0, -0.1, MINUS]], [[0.3, 0.9, 0.1], [0.5, 0.25, 0.0]]
    candidates = by_hand(scores, rewards)
    expected = []
    for row_scores, row_rewards in zip(scores, rewards, strict=True):
        weights = [math.exp(alpha * score) if score > MINUS else 0.0 for score in row_scores]
        pairs = zip(weights, row_rewards, strict=True)
        expected.append(sum(weight * (1 - reward) for weight, reward in pairs) / sum(weights))
    risk_B = expected_risk(candidates, alpha)
    assert risk_B.tolist() == pytest.approx(expected)
    (gradient_BC,) = torch.autograd.grad(risk_B.sum(), candidates.scores_BC)
    # d risk / d s(u) = alpha Q(u) (1 - reward(u) - risk)
    weights_BC = torch.where(candidates.mask_BC, (alpha * candidates.scores_BC.detach().clamp(min=-99)).exp(), 0.0)
    probabilities_BC = weights_BC / weights_BC.sum(dim=1, keepdim=True)
    by_formula = alpha * probabilities_BC * (1 - candidates.rewards_BC - risk_B.detach().unsqueeze(1))
    torch.testing.assert_close(gradient_BC, by_formula.masked_fill(~candidates.mask_BC, 0.0))


def test_the_nll_of_the_best_is_that_of_a_softmax_over_the_candidates() -> None:
    candidates = by_hand(
        [[-0.5, -1.0, -0.2], [-2.0, -0.1, MINUS], [-1.0, MINUS, MINUS]], [[0.3, 0.9, 0.9], [0.1, 0, 0], [0, 0, 0]]
    )
    expected = [
        -math.log(math.exp(-1.0) / sum(map(math.exp, (-0.5, -1.0, -0.2)))),  # of two equal ones the first
        -math.log(math.exp(-2.0) / sum(map(math.exp, (-2.0, -0.1)))),
        0.0,
    ]
    assert nll_of_best(candidates).tolist() == pytest.approx(expected)


def test_nothing_is_learnt_where_all_candidates_are_worth_the_same() -> None:
    candidates = by_hand([[-3.0, -2.0, -1.0], [-3.0, -2.0, MINUS]], [[0.0, 0.0, 0.0], [0.4, 0.4, 0.0]])
    for loss_B in (nll_of_best(candidates), margin(candidates)):
        assert loss_B.tolist() == [0.0, 0.0]


def test_the_margin_is_between_the_best_and_the_models_favourite() -> None:
    candidates = by_hand(
        [[-0.5, -1.0, -0.2], [-0.1, -5.0, MINUS], [-1.0, MINUS, MINUS]], [[0.3, 0.9, 0.1], [0.8, 0.2, 0], [0.4, 0, 0]]
    )
    margin_B = margin(candidates)
    assert margin_B.tolist() == pytest.approx([(0.9 - 0.1) - (-1.0) + (-0.2), 0.0, 0.0])
    (gradient_BC,) = torch.autograd.grad(margin_B.sum(), candidates.scores_BC)
    assert gradient_BC.tolist() == [[0.0, -1.0, 1.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]


# scores


@pytest.mark.parametrize("kept_elements", [0, 1 << 20])
@pytest.mark.parametrize("chunk_elements", [1, 40, 10_000])
def test_the_nll_of_each_token_is_that_of_all_logits_in_value_and_gradient(
    chunk_elements: int, kept_elements: int
) -> None:
    model, batch = tiny(), Batch.of(PAIRS)
    targets_N = batch.target_output_BT.flatten()
    weights_N = torch.randn(targets_N.shape, dtype=torch.float64)

    def readout_NE() -> torch.Tensor:
        memory, state = model.encode(batch.source_BS, batch.source_mask_BS)
        return model.decode(memory, state, batch.target_input_BT).flatten(0, 1)

    sizes = {"chunk_elements": chunk_elements, "kept_elements": kept_elements}
    nll_N = token_nll(readout_NE(), model.projection_VE, model.projection_bias_V, targets_N, **sizes)
    expected_N = F.cross_entropy(model.logits(readout_NE()), targets_N, reduction="none")
    torch.testing.assert_close(nll_N, expected_N, atol=1e-10, rtol=0)
    assert_same_loss(model, (nll_N * weights_N).sum(), (expected_N * weights_N).sum())


def test_scores_are_those_of_forced_decoding_per_token() -> None:
    model, batch = tiny(), Batch.of(PAIRS)
    candidates = [[[9, 10, EOS], [EOS]], [[4, 5, 6, 7, EOS]], [[11, EOS], [12, EOS], [13, 14, EOS]]]
    scores_N = mean_log_probabilities(model, batch, candidates)
    pairs = [(source, ids) for (source, _), some in zip(PAIRS, candidates, strict=True) for ids in some]
    totals = log_probabilities(model, pairs, batch_tokens=100, device=torch.device("cpu"))
    assert scores_N.tolist() == pytest.approx([total / len(ids) for total, (_, ids) in zip(totals, pairs, strict=True)])
    alone = torch.cat(
        [mean_log_probabilities(model, Batch.of([pair]), [some]) for pair, some in zip(PAIRS, candidates, strict=True)]
    )
    assert_same_loss(model, scores_N.sum(), alone.sum())


# search


def test_the_candidates_of_a_beam_are_its_hypotheses_each_once(
    learnt: Seq2Seq, opened: DataDirectory, batch: Batch
) -> None:
    search = searcher(opened)
    found = search.find(learnt.train(), batch)
    assert learnt.training
    for some in found:
        assert 1 <= len(some) <= 4
        assert len(set(map(tuple, some))) == len(some)
        assert all(ids[-1] == EOS for ids in some)
    candidates = search(learnt.eval(), batch)
    assert candidates.mask_BC.sum(dim=1).tolist() == [len(some) for some in found]
    texts = [opened.target_subword.decode(ids) for ids in found[2]]
    reference = opened.target_subword.decode(opened.train[2][1].tolist())
    assert candidates.rewards_BC[2, : len(texts)].tolist() == pytest.approx(Reward("bleu", "en")(texts, reference))
    assert candidates.scores_BC.requires_grad
    assert torch.equal(candidates.scores_BC.isfinite(), candidates.mask_BC)


def test_the_reference_is_a_candidate_where_asked_for(learnt: Seq2Seq, opened: DataDirectory, batch: Batch) -> None:
    plain, more = (searcher(opened, with_reference=way).find(learnt, batch) for way in (False, True))
    for number, (without, with_it) in enumerate(zip(plain, more, strict=True)):
        reference = opened.train[number][1].tolist()
        assert with_it == without + [reference] * (reference not in without)
    assert searcher(opened, with_reference=True)(learnt, batch).rewards_BC.max(dim=1).values.tolist() == [1.0] * 6


def test_samples_follow_torchs_random_numbers(learnt: Seq2Seq, opened: DataDirectory, batch: Batch) -> None:
    search = searcher(opened, by="samples", count=8)
    torch.manual_seed(1)
    first, second = search.find(learnt, batch), search.find(learnt, batch)
    torch.manual_seed(1)
    assert search.find(learnt, batch) == first
    assert first != second
    assert all(len(set(map(tuple, some))) == len(some) <= 8 for some in first)


def test_losses_of_candidates_are_their_formulas_over_what_search_finds(
    learnt: Seq2Seq, opened: DataDirectory, batch: Batch
) -> None:
    search, model = searcher(opened), learnt.eval()
    candidates = search(model, batch)
    for loss, expected in (
        (Risk(search, 2.0), expected_risk(candidates, 2.0)),
        (SequenceNLL(search), nll_of_best(candidates)),
        (MaxMargin(search), margin(candidates)),
    ):
        sums = loss(model, batch, 0)
        assert sums.nll is None
        assert loss.count(batch) == 6
        torch.testing.assert_close(sums.loss, expected.sum())


def test_updates_by_risk_raise_the_expected_reward(trained: Path, opened: DataDirectory, batch: Batch) -> None:
    model = StoredModel.open(trained).read_model().eval()
    loss = Risk(searcher(opened, with_reference=True), 1.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    values = []
    for _ in range(15):
        value = loss(model, batch, 0).loss
        values.append(float(value.detach()))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    assert values[-1] < values[0]


@pytest.mark.parametrize("share", [0.25, 0.9])
def test_a_mixture_is_the_weighted_sum_of_two_means(
    share: float, learnt: Seq2Seq, opened: DataDirectory, batch: Batch
) -> None:
    model, cross_entropy, risk = learnt.eval(), CrossEntropy(0.1), Risk(searcher(opened), 1.0)
    mixture = Interpolation(cross_entropy, risk, share)
    sums = mixture(model, batch, 0)
    tokens, other = cross_entropy(model, batch), risk(model, batch, 0)
    mean = share * tokens.loss / batch.target_tokens + (1 - share) * other.loss / 6
    torch.testing.assert_close(sums.loss / mixture.count(batch), mean)
    assert sums.nll is not None
    torch.testing.assert_close(sums.nll, tokens.nll)


# rewards


def test_a_reward_is_of_detokenised_text_by_the_targets_language() -> None:
    assert Reward("bleu", "en")(["A cat.", "A dog."], "A cat.")[0] == pytest.approx(1.0)
    chinese = Reward("bleu", "zh")(["我喜欢猫。"], "我喜欢狗。")[0]
    assert chinese == pytest.approx(sentence_bleu(list("我喜欢猫。"), list("我喜欢狗。")))
    better, worse = Reward("chrf", "en")(["The cat sat.", "Dogs."], "The cat sits.")
    assert 0 <= worse < better < 1


def test_leaving_out_an_unknown_word_of_the_reference_is_no_merit(other_data: Path) -> None:
    opened = DataDirectory.open(other_data)  # of words
    search = searcher(opened, with_reference=True)
    known = opened.train[0][1].tolist()
    reference = [known[0], 1, *known[1:]]
    texts = search.texts([known, reference])
    assert texts[1].replace("⁇", "").split() == texts[0].split()
    assert Reward("bleu", "en")(texts[:1], texts[1])[0] < 1
    sizes = {"source_size": opened.source_subword.size, "target_size": opened.target_subword.size}
    model = Seq2Seq(ModelConfig(hidden_size=8, embedding_size=8), **sizes, joint=False)
    found = search.find(model, Batch.of([(opened.train[0][0], reference), opened.train[0]]))
    assert reference not in found[0]
    assert known in found[1]


def test_every_candidate_that_there_is_can_be_enumerated(opened: DataDirectory, learnt: Seq2Seq) -> None:
    """Over a set that is enumerated, risk is the sum over all of it of probability times cost."""
    model, batch = tiny(), Batch.of(PAIRS[:1])
    every = [[*ids, EOS] for length in (0, 1, 2) for ids in itertools.product((4, 5, 6), repeat=length)]
    scores_N = mean_log_probabilities(model, batch, [every])
    rewards = [sentence_bleu(ids, PAIRS[0][1]) for ids in every]
    mask_BC = torch.ones(1, len(every), dtype=torch.bool)
    candidates = Candidates(scores_N.unsqueeze(0), torch.tensor([rewards], dtype=torch.float64), mask_BC)
    weights = []
    for ids in every:
        (total,) = log_probabilities(model, [(PAIRS[0][0], ids)], batch_tokens=100, device=torch.device("cpu"))
        weights.append(math.exp(total / len(ids)))
    expected = sum(w * (1 - r) for w, r in zip(weights, rewards, strict=True)) / sum(weights)
    assert expected_risk(candidates, 1.0).tolist() == pytest.approx([expected])
    assert any(gradient.abs().max() > 0 for gradient in gradients(model, expected_risk(candidates, 1.0).sum()))
