"""The likeliest next tokens are those of all probabilities, however few rows of logits are made at a time."""

import pytest
import torch
from torch import Tensor

from nmtcli.config import ModelConfig
from nmtcli.model.seq2seq import Seq2Seq
from nmtcli.search import ensemble
from nmtcli.search.ensemble import BLOCK, Ensemble, top


@pytest.mark.parametrize("width", [7, 4 * BLOCK, 9 * BLOCK + 5, 40 * BLOCK + 1])
@pytest.mark.parametrize("count", [1, 2, 10])
def test_top_is_topk(width: int, count: int) -> None:
    torch.manual_seed(width)
    count = min(count, width)
    values_NV = torch.randperm(6 * width).view(6, width).float()
    values_NV[0] = values_NV[0].sort().values  # the largest at the end, where no whole block is
    values_NV[1] = values_NV[1].sort(descending=True).values
    values_NV[2, count:] = -torch.inf
    best_NC, ids_NC = top(values_NV, count)
    expected_NC, places_NC = values_NV.topk(count)
    assert torch.equal(best_NC, expected_NC)
    assert torch.equal(ids_NC, places_NC)


def test_top_of_a_row_without_enough_finite_values_are_minus_infinity() -> None:
    values_NV = torch.full((1, 20 * BLOCK), -torch.inf)
    values_NV[0, 70] = 1.0
    best_NC, ids_NC = top(values_NV, 3)
    assert best_NC[0].tolist() == [1.0, -torch.inf, -torch.inf]
    assert ids_NC[0, 0] == 70


def models(count: int) -> list[Seq2Seq]:
    torch.manual_seed(1)
    config = ModelConfig(hidden_size=16, embedding_size=16, init="normal", init_scale=0.5)
    return [Seq2Seq(config, source_size=60, target_size=900, joint=False).eval() for _ in range(count)]


def expected(members: list[Seq2Seq], source_BS: Tensor, tokens_BK: Tensor, *, by_logits: bool) -> Tensor:
    """What every token has, all at once."""
    found = []
    for model in members:
        memory, state = model.encode(source_BS, torch.ones_like(source_BS, dtype=torch.bool))
        rows_N = torch.arange(len(source_BS)).repeat_interleave(tokens_BK.shape[1])
        logits_BKV, _, _ = model.step(memory, state.select(rows_N), tokens_BK)
        found.append(logits_BKV if by_logits else logits_BKV.softmax(dim=-1))
    mean_BKV = torch.stack(found).mean(dim=0)
    return mean_BKV if by_logits else mean_BKV.log()


@pytest.mark.parametrize("by_logits", [False, True])
@pytest.mark.parametrize("members", [1, 2])
@pytest.mark.parametrize("elements", [1, 2000, 1 << 20])
def test_choices_are_the_likeliest_of_all(
    by_logits: bool, members: int, elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ensemble, "CHUNK_ELEMENTS", elements)
    some, forbidden = models(members), [0, 2, 17]
    source_BS, tokens_BK = torch.randint(4, 60, (3, 5)), torch.randint(4, 900, (3, 4))
    with torch.no_grad():
        expected_BKV = expected(some, source_BS, tokens_BK, by_logits=by_logits)
        one = Ensemble(some, torch.tensor(forbidden), by_logits=by_logits)
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
