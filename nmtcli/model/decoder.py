"""The decoder: attention between the first and the upper layers, so that training needs no loop over time.

    target embeddings -> first LSTM layer -> queries -> attention -> context
    [layer below; context] -> upper LSTM layers, with residuals -> [top; context] -> readout of the embeddings' width

No layer's input depends on attention's answer of an earlier step, so that every layer runs over the whole target in one
fused call. Decoding uses the same weights one step at a time. With one layer, the context meets the readout only.

Source: Wu et al. 2016, section 3; the wiring of NVIDIA's GNMT v2, whose context also goes to every upper layer.
"""

from collections.abc import Callable
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn

from nmtcli.model.attention import Attention, Memory
from nmtcli.model.cells import CellState, RecurrentLayer
from nmtcli.model.dropout import dropout


class State(NamedTuple):
    """What the decoder carries from step to step, for N = B * K hypotheses, those of a sentence next to each other.

    Attributes:
        hidden_LNH: the layers' last outputs.
        cell_LNH: the LSTM layers' cell states; of width 0 for GRU and RNN.
    """

    hidden_LNH: Tensor
    cell_LNH: Tensor

    def select(self, rows_N: Tensor) -> Self:
        """The state of these rows, in this order; rows may repeat and drop out."""
        return self._replace(hidden_LNH=self.hidden_LNH[:, rows_N], cell_LNH=self.cell_LNH[:, rows_N])

    def layer(self, number: int) -> CellState:
        """One layer's state."""
        return CellState(self.hidden_LNH[number], self.cell_LNH[number])


class Decoder(nn.Module):
    """From target embeddings and the memory to the readout that the output projection takes.

    Args:
        cell: lstm, gru or rnn.
        layers: L.
        input_size: width of the embeddings, and of the readout.
        hidden_size: H.
        memory_size: width of the memory.
        attention: score of query and key.
        dropout: probability, on the input of each layer above the first and before and after the readout.
    """

    def __init__(
        self,
        cell: str,
        *,
        layers: int,
        input_size: int,
        hidden_size: int,
        memory_size: int,
        attention: str,
        dropout: float,
    ) -> None:
        super().__init__()
        self.cell = cell
        sizes = [input_size] + [hidden_size + memory_size] * (layers - 1)
        self.layers = nn.ModuleList(RecurrentLayer(cell, size, hidden_size) for size in sizes)
        self.attention = Attention(attention, hidden_size, memory_size)
        self.readout = nn.Linear(hidden_size + memory_size, input_size)
        self.bridge = nn.Linear(memory_size, layers * hidden_size * (2 if cell == "lstm" else 1))
        self.dropout = dropout

    def first_state(self, last_BH: Tensor) -> State:
        """The state before the first step, from what the encoder said last: hidden = tanh(W x), cell = W x.

        The cell state is kept in fp32 where the weights are bf16: it is a sum over time.
        """
        layers = len(self.layers)
        parts_LBH = self.bridge(last_BH).unflatten(-1, (-1, self.layers[0].kernel.hidden_size)).transpose(0, 1)  # type: ignore[union-attr]
        full = torch.promote_types(parts_LBH.dtype, torch.float32)
        cell_LBH = parts_LBH[layers:] if self.cell == "lstm" else parts_LBH[:, :, :0]
        return State(parts_LBH[:layers].tanh(), cell_LBH.to(full))

    def forward(self, embedded_BTE: Tensor, memory: Memory, state: State) -> tuple[Tensor, Tensor]:
        """The whole target at once.

        Returns:
            readout_BTE and weights_BTS, equal to T calls of `step` to rounding.
        """
        return self._wire(
            embedded_BTE, memory, lambda number, input_BTE: self.layers[number](input_BTE, state.layer(number))
        )

    def step(self, embedded_BKE: Tensor, memory: Memory, state: State) -> tuple[Tensor, Tensor, State]:
        """One token for each of K hypotheses of each sentence.

        Returns:
            readout_BKE, weights_BKS, and the next state.
        """
        after: list[CellState] = []

        def run(number: int, input_BKE: Tensor) -> Tensor:
            after.append(self.layers[number].step(input_BKE.flatten(0, 1), state.layer(number)))  # type: ignore[operator]
            return after[-1].hidden_NH.view(*input_BKE.shape[:2], -1)

        readout_BKE, weights_BKS = self._wire(embedded_BKE, memory, run)
        hidden_LNH = torch.stack([one.hidden_NH for one in after])
        cell_LNH = torch.stack([one.cell_NH for one in after])
        return readout_BKE, weights_BKS, State(hidden_LNH, cell_LNH)

    def _wire(
        self, embedded_BTE: Tensor, memory: Memory, run: Callable[[int, Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        layer_BTH = run(0, embedded_BTE)
        context_BTH, weights_BTS = self.attention(layer_BTH, memory)
        for number in range(1, len(self.layers)):
            input_BTH = self._drop(torch.cat([layer_BTH, context_BTH], dim=-1))
            layer_BTH = run(number, input_BTH) + layer_BTH
        readout_BTE = self.readout(self._drop(torch.cat([layer_BTH, context_BTH], dim=-1))).tanh()
        return self._drop(readout_BTE), weights_BTS

    def _drop(self, values: Tensor) -> Tensor:
        return dropout(values, self.dropout, self.training)
