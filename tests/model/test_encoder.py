"""The encoder over padded batches equals a plain loop over each sentence alone."""

import pytest
import torch
from torch import Tensor

from nmtcli.model.cells import CellState
from nmtcli.model.encoder import Encoder, reversal


def read_one(encoder: Encoder, embedded_SE: Tensor) -> tuple[Tensor, Tensor]:
    """The textbook's encoder: one sentence, one layer after the other, one step after the other, no padding."""
    layer: list[Tensor] = list(embedded_SE)
    for number, forward_layer in enumerate(encoder.forward_layers):
        outputs = []
        for direction, order in ((forward_layer, range(len(layer))), (None, range(len(layer))[::-1])):
            if direction is None:
                if not encoder.backward_layers:
                    continue
                direction = encoder.backward_layers[number]
            width = direction.kernel.hidden_size
            state = CellState(embedded_SE.new_zeros(1, width), embedded_SE.new_zeros(1, width))
            said = {}
            for s in order:
                state = direction.step(layer[s].unsqueeze(0), state)
                said[s] = state.hidden_NH[0]
            outputs.append([said[s] for s in range(len(layer))])
        joined = [torch.cat(parts) for parts in zip(*outputs, strict=True)]
        layer = [new + old for new, old in zip(joined, layer, strict=True)] if number else joined
    width = encoder.forward_layers[0].kernel.hidden_size
    return torch.stack(layer), torch.cat([layer[-1][:width], layer[0][width:]])


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("layers", [1, 3])
def test_padded_batch_equals_a_loop_over_sentences_in_value_and_gradient(
    cell: str, bidirectional: bool, layers: int
) -> None:
    torch.manual_seed(3)
    encoder = Encoder(cell, layers=layers, input_size=5, hidden_size=6, bidirectional=bidirectional, dropout=0.0)
    encoder = encoder.double()
    lengths_B = torch.tensor([4, 1, 7, 2])
    embedded_BSE = torch.randn(
        4, 9, 5, dtype=torch.float64, requires_grad=True
    )  # padding holds junk, two of it for all
    memory_BSH, last_BH = encoder(embedded_BSE, lengths_B)
    total = torch.zeros((), dtype=torch.float64)
    for b, length in enumerate(lengths_B.tolist()):
        one_SH, last_H = read_one(encoder, embedded_BSE[b, :length])
        torch.testing.assert_close(memory_BSH[b, :length], one_SH, atol=1e-10, rtol=0)
        torch.testing.assert_close(last_BH[b], last_H, atol=1e-10, rtol=0)
        total = total + one_SH.square().sum() + last_H.square().sum()
    mask_BS1 = (torch.arange(9) < lengths_B.unsqueeze(1)).unsqueeze(-1)
    batched = (memory_BSH.square() * mask_BS1).sum() + last_BH.square().sum()
    parameters = [embedded_BSE, *encoder.parameters()]
    for one, other in zip(
        torch.autograd.grad(batched, parameters), torch.autograd.grad(total, parameters), strict=True
    ):
        torch.testing.assert_close(one, other, atol=1e-9, rtol=0)


def test_reversal_is_its_own_inverse_and_leaves_padding_alone() -> None:
    lengths_B = torch.tensor([5, 1, 3])
    index_BS = reversal(lengths_B, 6)
    assert torch.equal(index_BS.gather(1, index_BS), torch.arange(6).expand(3, 6))
    for length, row in zip(lengths_B.tolist(), index_BS.tolist(), strict=True):
        assert row == [*range(length)[::-1], *range(length, 6)]
