"""Stacked recurrent encoder, without packed sequences.

Sentences are padded on the right. The forward direction needs no special care, since padding comes after all real
positions. The backward direction runs over each sentence reversed within its own length, so that padding again comes
last; this takes one gather before the layer and one after it. Each direction of each layer is one fused call, and
the lengths need not be copied to the host. An encoder with a reversed source has the backward direction only.
"""

import torch
from torch import Tensor, nn

from nmtcli.model.cells import RecurrentLayer, RecurrentLayers
from nmtcli.model.dropout import Dropout


def reversal(lengths_B: Tensor, size: int) -> Tensor:
    """Return the position indices that reverse each sentence within its length and leave padding in place.

    The order is its own inverse: reversing twice restores the sentence.

    Args:
        lengths_B: lengths of the sentences [tokens].
        size: S, number of positions, padding included.
    Returns:
        index_BS.

    >>> reversal(torch.tensor([3, 1]), 4).tolist()
    [[2, 1, 0, 3], [0, 1, 2, 3]]
    """
    position_S = torch.arange(size, device=lengths_B.device)
    mirrored_BS = lengths_B.unsqueeze(1) - 1 - position_S
    return torch.where(mirrored_BS >= 0, mirrored_BS, position_S)


def gather_positions(values_BSE: Tensor, index_BS: Tensor) -> Tensor:
    """Return `values_BSE[b, index_BS[b, s]]` for all b and s."""
    return values_BSE.gather(1, index_BS.unsqueeze(-1).expand(-1, -1, values_BSE.shape[-1]))


class Encoder(nn.Module):
    """Stacked recurrent layers over the source.

    Args:
        cell: a name in `CELLS`.
        layers: number of layers.
        input_size: width of the embeddings.
        hidden_size: H, width of the output; with two directions, each has half of it.
        bidirectional: if True, half of the H units read the source from left to right and half from right to left.
        reverse_source: if True, all units read from right to left; cannot be combined with `bidirectional`.
        residual: if True, each layer above the first adds its input to its output.
        dropout: applied to the input of each layer above the first.
    Source:
        bidirectional: Schuster and Paliwal 1997; reversed source: Sutskever et al. 2014, section 3.3.
    """

    def __init__(
        self,
        cell: str,
        *,
        layers: int,
        input_size: int,
        hidden_size: int,
        bidirectional: bool,
        reverse_source: bool,
        residual: bool,
        dropout: Dropout,
    ) -> None:
        super().__init__()
        width = hidden_size // 2 if bidirectional else hidden_size
        sizes = [input_size] + [hidden_size] * (layers - 1)
        from_left, from_right = not reverse_source, bidirectional or reverse_source
        self.forward_layers = RecurrentLayers(RecurrentLayer(cell, size, width) for size in sizes if from_left)
        self.backward_layers = RecurrentLayers(RecurrentLayer(cell, size, width) for size in sizes if from_right)
        self.layers = layers
        self.residual = residual
        self.dropout = dropout

    def forward(self, embedded_BSE: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """Encode the source.

        Args:
            embedded_BSE: embedded source, padded on the right.
            lengths_B: lengths of the sentences, at least 1 [tokens].
        Returns:
            memory_BSH, whose values at real positions do not depend on padding; and last_BH, the output of the forward
            direction at the last real position concatenated with that of the backward direction at the first position.
        """
        drop = self.dropout.over_a_sentence(self.training)
        index_BS = reversal(lengths_B, embedded_BSE.shape[1])
        layer_BSH = embedded_BSE
        for number in range(self.layers):
            input_BSH = drop(f"layer {number}", layer_BSH) if number else layer_BSH
            outputs = []
            if self.forward_layers:
                outputs.append(self.forward_layers[number](input_BSH))
            if self.backward_layers:
                from_right_BSH = self.backward_layers[number](gather_positions(input_BSH, index_BS))
                outputs.append(gather_positions(from_right_BSH, index_BS))
            output_BSH = torch.cat(outputs, dim=-1) if len(outputs) > 1 else outputs[0]
            layer_BSH = output_BSH + layer_BSH if number and self.residual else output_BSH
        width = layer_BSH.shape[-1] // (2 if self.forward_layers and self.backward_layers else 1)
        end = width if self.forward_layers else 0  # units before `end` belong to the forward direction
        last_B = lengths_B - 1
        rows_B = torch.arange(len(last_B), device=last_B.device)
        last_BH = torch.cat([layer_BSH[rows_B, last_B, :end], layer_BSH[:, 0, end:]], dim=-1)
        return layer_BSH, last_BH
