"""Attention equals a double loop over target and source positions."""

import dataclasses

import pytest
import torch

from nmtcli.config import ModelConfig
from nmtcli.knobs import knob_of
from nmtcli.model.attention import ATTENTIONS, AdditiveAttention, GeneralAttention, Memory


@pytest.mark.parametrize("score", ATTENTIONS)
@pytest.mark.parametrize("scaled", [True, False])
def test_attention_equals_a_double_loop(score: str, scaled: bool) -> None:
    torch.manual_seed(4)
    attention = ATTENTIONS[score](6, 6, scaled=scaled).double()
    scale = 6**-0.5 if scaled and score != "additive" else 1.0
    values_BSH = torch.randn(2, 5, 6, dtype=torch.float64)
    query_BTD = torch.randn(2, 3, 6, dtype=torch.float64)
    lengths = [5, 2]
    mask_BS = torch.arange(5) < torch.tensor(lengths).unsqueeze(1)
    memory = Memory(values_BSH, attention.keys(values_BSH), mask_BS, values_BSH[:, 0])
    context_BTH, weights_BTS = attention(query_BTD, memory)
    for b in range(2):
        for t in range(3):
            query = query_BTD[b, t]
            scores = []
            for s in range(lengths[b]):
                value = values_BSH[b, s]
                if score == "dot":
                    scores.append(query @ value)
                elif isinstance(attention, GeneralAttention):
                    scores.append(query @ attention.project_keys.weight @ value)
                else:
                    assert isinstance(attention, AdditiveAttention)
                    inner = attention.project_query(query) + attention.project_keys.weight @ value
                    scores.append(attention.combine.weight[0] @ inner.tanh())
            exps = [float((one.detach() * scale).exp()) for one in scores]
            weights = [one / sum(exps) for one in exps]
            context = torch.stack([weight * values_BSH[b, s] for s, weight in enumerate(weights)]).sum(dim=0)
            assert weights_BTS[b, t, : lengths[b]].tolist() == pytest.approx(weights, abs=1e-12)
            assert context_BTH[b, t].tolist() == pytest.approx(context.tolist(), abs=1e-12)


def test_weights_on_padding_are_exactly_zero_and_the_others_sum_to_one() -> None:
    attention = ATTENTIONS["general"](4, 4, scaled=True)
    values_BSH = torch.randn(1, 4, 4) * 50
    mask_BS = torch.tensor([[True, True, False, False]])
    memory = Memory(values_BSH, attention.keys(values_BSH), mask_BS, values_BSH[:, 0])
    _, weights_BTS = attention(torch.randn(1, 2, 4), memory)
    assert (weights_BTS[..., 2:] == 0).all()
    torch.testing.assert_close(weights_BTS.sum(dim=-1), torch.ones(1, 2))


@pytest.mark.parametrize("alike", [True, False])
@pytest.mark.parametrize("rows", [[0, 4, 2], [3, 3, 0, 1, 3], [4], []])
def test_what_is_kept_in_place_is_what_is_selected(rows: list[int], alike: bool) -> None:
    values_BSH = torch.randn(5, 3, 6)
    keys_BSD = values_BSH if alike else torch.randn(5, 3, 4)
    memory = Memory(values_BSH, keys_BSD, torch.rand(5, 3) < 0.5, values_BSH[:, 0])
    rows_B = torch.tensor(rows, dtype=torch.long)
    selected, pointer = memory.select(rows_B), values_BSH.data_ptr()
    kept = memory.keep(rows_B)
    assert all(torch.equal(one, other) for one, other in zip(kept, selected, strict=True))
    assert not rows or kept.values_BSH.data_ptr() == pointer


def test_the_option_offers_each_score_of_the_table_and_none() -> None:
    (field,) = (field for field in dataclasses.fields(ModelConfig) if field.name == "attention")
    assert knob_of(field).choices == (*ATTENTIONS, "none")
