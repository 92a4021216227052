"""The encoder over padded batches equals a plain loop over each sentence alone."""

import pytest
import torch
from torch import Tensor

from nmtcli.model.cells import CELLS, CellState
from nmtcli.model.dropout import Dropout
from nmtcli.model.encoder import Encoder, reversal


def encoder_of(cell: str, layers: int, reads: str, *, residual: bool = True) -> Encoder:
    return Encoder(
        cell,
        layers=layers,
        input_size=5,
        hidden_size=6,
        bidirectional=reads == "both",
        reverse_source=reads == "reversed",
        residual=residual,
        dropout=Dropout(0.0, variational=False),
    ).double()


def read_one(encoder: Encoder, embedded_SE: Tensor) -> tuple[Tensor, Tensor]:
    """The textbook's encoder: one sentence, one layer after the other, one step after the other, no padding."""
    layer: list[Tensor] = list(embedded_SE)
    for number in range(encoder.layers):
        outputs = []
        for directions, order in (
            (encoder.forward_layers, range(len(layer))),
            (encoder.backward_layers, range(len(layer))[::-1]),
        ):
            if not directions:
                continue
            width = directions[number].kernel.hidden_size
            state = CellState(embedded_SE.new_zeros(1, width), embedded_SE.new_zeros(1, width))
            said = {}
            for s in order:
                state = directions[number].step(layer[s].unsqueeze(0), state)
                said[s] = state.hidden_NH[0]
            outputs.append([said[s] for s in range(len(layer))])
        joined = [torch.cat(parts) for parts in zip(*outputs, strict=True)]
        is_added = number and encoder.residual
        layer = [new + old for new, old in zip(joined, layer, strict=True)] if is_added else joined
    width = len(layer[0]) // 2 if encoder.forward_layers and encoder.backward_layers else len(layer[0])
    from_left, from_right = bool(encoder.forward_layers), bool(encoder.backward_layers)
    last = [layer[-1][:width]] * from_left + [layer[0][-width:]] * from_right
    return torch.stack(layer), torch.cat(last)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("reads", ["both", "forwards", "reversed"])
@pytest.mark.parametrize(("layers", "residual"), [(1, True), (3, True), (2, False)])
def test_padded_batch_equals_a_loop_over_sentences_in_value_and_gradient(
    cell: str, reads: str, layers: int, residual: bool
) -> None:
    torch.manual_seed(3)
    encoder = encoder_of(cell, layers, reads, residual=residual)
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


def test_an_encoder_of_the_reversed_source_says_what_a_forward_one_says_of_the_reversed_text() -> None:
    torch.manual_seed(4)
    forwards, backwards = encoder_of("lstm", 2, "forwards"), encoder_of("lstm", 2, "reversed")
    backwards.backward_layers.load_state_dict(forwards.forward_layers.state_dict())
    embedded_1SE, lengths_1 = torch.randn(1, 6, 5, dtype=torch.float64), torch.tensor([6])
    memory_1SH, last_1H = backwards(embedded_1SE, lengths_1)
    expected_1SH, expected_1H = forwards(embedded_1SE.flip(1), lengths_1)
    torch.testing.assert_close(memory_1SH, expected_1SH.flip(1))
    torch.testing.assert_close(last_1H, expected_1H)
