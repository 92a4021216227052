"""The top tokens equal those of the full distribution, however few rows of logits are computed at a time."""

import numpy as np
import pytest
import torch
from torch import Tensor

from nmtcli.config import ModelConfig
from nmtcli.data.shortlist import Shortlist
from nmtcli.model.seq2seq import Seq2Seq
from nmtcli.search import ensemble
from nmtcli.search.ensemble import TOP_BLOCK, Ensemble, top, top_without
from nmtcli.search.host import Sampling, Scoring, SearchBatch, SearchRules, run_search
from nmtcli.search.sampling import StepwiseProgram


@pytest.mark.parametrize("width", [7, 4 * TOP_BLOCK, 9 * TOP_BLOCK + 5, 40 * TOP_BLOCK + 1])
@pytest.mark.parametrize("count", [1, 2, 10])
def test_top_is_topk(width: int, count: int) -> None:
    torch.manual_seed(width)
    count = min(count, width)
    values_NV = torch.randperm(6 * width).view(6, width).float()
    values_NV[0] = values_NV[0].sort().values  # the largest values lie at the end, outside of whole blocks
    values_NV[1] = values_NV[1].sort(descending=True).values
    values_NV[2, count:] = -torch.inf
    best_NC, ids_NC = top(values_NV, count)
    expected_NC, places_NC = values_NV.topk(count)
    assert torch.equal(best_NC, expected_NC)
    assert torch.equal(ids_NC, places_NC)


def test_top_of_a_row_without_enough_finite_values_are_minus_infinity() -> None:
    values_NV = torch.full((1, 20 * TOP_BLOCK), -torch.inf)
    values_NV[0, 70] = 1.0
    best_NC, ids_NC = top(values_NV, 3)
    assert best_NC[0].tolist() == [1.0, -torch.inf, -torch.inf]
    assert ids_NC[0, 0] == 70


@pytest.mark.parametrize("share", [0.0, 0.1, 0.9, 0.999])
@pytest.mark.parametrize("count", [1, 4])
def test_the_top_without_others_is_that_of_others_at_minus_infinity(share: float, count: int) -> None:
    generator = torch.Generator().manual_seed(1)
    disallowed_B1V = torch.rand(3, 1, 9 * TOP_BLOCK, generator=generator) < share
    disallowed_B1V[:, :, :count] = False
    values_NV = torch.randperm(3 * 4 * 9 * TOP_BLOCK, generator=generator).view(12, -1).float()
    expected_BKV = values_NV.view(3, 4, -1).masked_fill(disallowed_B1V, -torch.inf)
    best_NC, ids_NC = top_without(disallowed_B1V, values_NV, count)
    expected_NC, places_NC = expected_BKV.flatten(0, 1).topk(count)
    assert torch.equal(best_NC, expected_NC)
    assert torch.equal(ids_NC, places_NC)


def models(count: int) -> list[Seq2Seq]:
    torch.manual_seed(1)
    config = ModelConfig(hidden_size=16, embedding_size=16, init="normal", init_scale=0.5)
    return [Seq2Seq(config, source_size=60, target_size=900, joint=False).eval() for _ in range(count)]


def expected(members: list[Seq2Seq], source_BS: Tensor, tokens_BK: Tensor, *, by_logits: bool) -> Tensor:
    """Compute the log-probabilities of all tokens at once."""
    found = []
    for model in members:
        memory, state = model.encode(source_BS, torch.ones_like(source_BS, dtype=torch.bool))
        rows_N = torch.arange(len(source_BS)).repeat_interleave(tokens_BK.shape[1])
        logits_BKV, _, _ = model.step(memory, state.select(rows_N), tokens_BK)
        found.append(logits_BKV if by_logits else logits_BKV.softmax(dim=-1))
    mean_BKV = torch.stack(found).mean(dim=0)
    return mean_BKV if by_logits else mean_BKV.log()


@pytest.mark.parametrize("scoring", [Scoring.LOG_PROBABILITY, Scoring.LOGIT])
@pytest.mark.parametrize("members", [1, 2])
@pytest.mark.parametrize("elements", [1, 2000, 1 << 20])
def test_choices_are_the_likeliest_of_all(
    scoring: Scoring, members: int, elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ensemble, "CHUNK_ELEMENTS", elements)
    some, forbidden = models(members), [0, 2, 17]
    source_BS, tokens_BK = torch.randint(4, 60, (3, 5)), torch.randint(4, 900, (3, 4))
    with torch.no_grad():
        expected_BKV = expected(some, source_BS, tokens_BK, by_logits=scoring is Scoring.LOGIT)
        one = Ensemble(some, torch.tensor(forbidden), scoring=scoring)
        start = one.start(source_BS, torch.ones_like(source_BS, dtype=torch.bool), 4)
        choices, weights_BKS, _ = one.step(tokens_BK, start, 8)
        whole, _, _ = one.step(tokens_BK, start, None)
    torch.testing.assert_close(choices.eos_BK, expected_BKV[..., 3])
    expected_BKV[..., forbidden] = -torch.inf
    best_BKC, ids_BKC = expected_BKV.topk(8)
    torch.testing.assert_close(choices.log_probs_BKC, best_BKC)
    assert torch.equal(choices.ids_BKC, ids_BKC)
    torch.testing.assert_close(whole.log_probs_BKC, expected_BKV)
    assert torch.equal(whole.ids_BKC[0, 0], torch.arange(900))
    assert weights_BKS.shape == (3, 4, 5)


def shortlist_of(translations: dict[int, list[int]], frequent: list[int]) -> Shortlist:
    of_piece_SC = np.zeros((60, 2), np.int64)
    for piece, ids in translations.items():
        of_piece_SC[piece, : len(ids)] = ids
    return Shortlist(of_piece_SC, np.array(frequent, np.int64))


@pytest.mark.parametrize("members", [1, 2])
def test_a_shortlist_leaves_each_sentence_what_its_pieces_allow(members: int) -> None:
    some, forbidden = models(members), [0, 2, 17]
    shortlist = shortlist_of({5: [100, 800], 6: [17, 101], 7: [102]}, [200, 201])
    source_BS, tokens_BK = torch.tensor([[5, 6, 3], [7, 7, 3]]), torch.randint(4, 900, (2, 3))
    allowed = [[3, 100, 101, 200, 201, 800], [3, 102, 200, 201]]
    with torch.no_grad():
        expected_BKV = expected(some, source_BS, tokens_BK, by_logits=True) if members == 1 else None
        one = Ensemble(some, torch.tensor(forbidden), scoring=Scoring.LOG_PROBABILITY, shortlist=shortlist)
        mask_BS = torch.ones_like(source_BS, dtype=torch.bool)
        choices, _, _ = one.step(tokens_BK, one.start(source_BS, mask_BS, 3), 7)
        for b, ids in enumerate(allowed):
            alone, _, _ = one.step(tokens_BK[b : b + 1], one.start(source_BS[b : b + 1], mask_BS[b : b + 1], 3), 7)
            for k in range(3):
                finite = choices.log_probs_BKC[b, k].isfinite()
                assert sorted(choices.ids_BKC[b, k][finite].tolist()) == ids
                probabilities = choices.log_probs_BKC[b, k].exp()
                assert float(probabilities.sum()) == pytest.approx(1.0, abs=1e-5)
                assert float(choices.eos_BK[b, k]) == pytest.approx(
                    float(choices.log_probs_BKC[b, k][choices.ids_BKC[b, k] == 3][0]), abs=1e-5
                )
                torch.testing.assert_close(alone.log_probs_BKC[0, k][: len(ids)], choices.log_probs_BKC[b, k][finite])
                if expected_BKV is not None:
                    theirs = expected_BKV[b, k, ids].softmax(dim=0)
                    found = dict(zip(choices.ids_BKC[b, k].tolist(), probabilities.tolist(), strict=True))
                    assert [found[i] for i in ids] == pytest.approx(theirs.tolist(), abs=1e-5)


def test_samples_are_of_what_a_shortlist_allows() -> None:
    some = models(1)
    shortlist = shortlist_of({5: [100, 800], 6: [101]}, [200])
    one = Ensemble(some, torch.tensor([0, 2]), scoring=Scoring.LOG_PROBABILITY, shortlist=shortlist)
    rules = SearchRules(beam=20, bos=2, eos=3, sampling=Sampling(seed=1))
    with torch.no_grad():
        program = StepwiseProgram(one, rules, device=torch.device("cpu"))
        (samples,) = run_search(program, SearchBatch([[5, 6, 3]], [0], [5]))
    assert len(samples) == 20
    emitted = {token for sample in samples for token in sample.ids}
    assert emitted <= {3, 100, 101, 200, 800}
    assert len(emitted) > 2
    assert all(sample.ids[-1] == 3 for sample in samples)


def test_a_shortlist_of_everything_changes_nothing() -> None:
    some, forbidden = models(1), [0, 2, 17]
    source_BS, tokens_BK = torch.tensor([[5, 6, 3]]), torch.randint(4, 900, (1, 4))
    mask_BS = torch.ones_like(source_BS, dtype=torch.bool)
    with torch.no_grad():
        plain = Ensemble(some, torch.tensor(forbidden), scoring=Scoring.LOGIT)
        listed = Ensemble(
            some, torch.tensor(forbidden), scoring=Scoring.LOGIT, shortlist=shortlist_of({}, [*range(900)])
        )
        for count in (5, None):
            one, _, _ = plain.step(tokens_BK, plain.start(source_BS, mask_BS, 4), count)
            other, _, state = listed.step(tokens_BK, listed.start(source_BS, mask_BS, 4), count)
            finite = one.log_probs_BKC.isfinite()
            kept = other.log_probs_BKC.isfinite()
            torch.testing.assert_close(one.log_probs_BKC[finite], other.log_probs_BKC[kept])
            assert torch.equal(one.ids_BKC[finite], other.ids_BKC[kept])
    kept_allowed = state.select(torch.tensor([0]), torch.zeros(1, 4, dtype=torch.long)).allowed
    assert kept_allowed is not None
    assert kept_allowed.disallowed_B1U.sum() == 3
