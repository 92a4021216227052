"""Attention of the decoder over the memory: dot, general and additive scores."""

from typing import NamedTuple, Self

import torch
from torch import Tensor, nn

from nmtcli.model.linear import Linear


class Memory(NamedTuple):
    """The source as the decoder sees it; made once for a batch.

    Attributes:
        values_BSH: outputs of the encoder.
        keys_BSD: what queries are compared with: `values_BSH`, projected and scaled once.
        mask_BS: True on real tokens.
        summary_BH: the whole sentence in one vector.
    """

    values_BSH: Tensor
    keys_BSD: Tensor
    mask_BS: Tensor
    summary_BH: Tensor

    def select(self, sentences_B: Tensor) -> Self:
        """The memory of these sentences, in this order."""
        return self.__class__(*(values[sentences_B] for values in self))

    def keep(self, sentences_B: Tensor) -> Self:
        """`select`, but what stays in its place is not copied, and this memory must not be used again."""
        mask_BS, summary_BH = self.mask_BS[sentences_B], self.summary_BH[sentences_B]
        values_BSH = kept_in_place(self.values_BSH, sentences_B)
        keys_BSD = values_BSH if self.keys_BSD is self.values_BSH else kept_in_place(self.keys_BSD, sentences_B)
        return self.__class__(values_BSH, keys_BSD, mask_BS, summary_BH)


def kept_in_place(values_N: Tensor, rows_M: Tensor) -> Tensor:
    """`values_N[rows_M]`; on a CPU as the first rows of `values_N`, where only those that were elsewhere are written.

    >>> kept_in_place(torch.arange(5), torch.tensor([0, 4, 2])).tolist()
    [0, 4, 2]
    """
    if values_N.is_cuda:  # looking which these are would wait for it
        return values_N[rows_M]
    moved_D = (rows_M != torch.arange(len(rows_M))).nonzero().flatten()
    values_N[moved_D] = values_N[rows_M[moved_D]]
    return values_N[: len(rows_M)]


class Attention(nn.Module):
    """Weights over the source for each query, and the sum of the values under them.

        dot        q . m
        general    q . W m
        additive   v . tanh(U q + W m)

    Args:
        score: dot, general or additive.
        query_size: width of the decoder's layer.
        value_size: width of the memory; dot needs both equal.
        scaled: dot and general are over the square root of `query_size`. Without it a softmax over outputs of the size
            that a GRU's or a plain RNN's have looks at one position from the first update on, and learns slowly.
    Source:
        dot and general: Luong et al. 2015, eq. 8; scaled: Vaswani et al. 2017, section 3.2.1; additive: Bahdanau et al.
        2015, appendix A.1.2.
    """

    def __init__(self, score: str, query_size: int, value_size: int, *, scaled: bool) -> None:
        super().__init__()
        assert score != "dot" or query_size == value_size
        self.score = score
        self.scale = query_size**-0.5 if scaled else 1.0
        if score != "dot":
            self.project_keys = nn.Linear(value_size, query_size, bias=False)
        if score == "additive":
            self.project_query = Linear(query_size, query_size)
            self.combine = nn.Linear(query_size, 1, bias=False)

    def keys(self, values_BSH: Tensor) -> Tensor:
        """keys_BSD of a memory."""
        keys_BSD = values_BSH if self.score == "dot" else self.project_keys(values_BSH)
        assert isinstance(keys_BSD, Tensor)
        return keys_BSD if self.score == "additive" or self.scale == 1.0 else keys_BSD * self.scale

    def forward(self, query_BTD: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        """Attends, for every query position at once.

        Args:
            query_BTD: T target positions, or as many hypotheses of each sentence.
            memory: of the same B sentences.
        Returns:
            context_BTH and weights_BTS; weights sum to 1 and are exactly 0 on padding.
        """
        if self.score == "additive":
            joined_BTSD = self.project_query(query_BTD).unsqueeze(2) + memory.keys_BSD.unsqueeze(1)
            scores_BTS = self.combine(joined_BTSD.tanh()).squeeze(-1)
        else:
            scores_BTS = query_BTD @ memory.keys_BSD.transpose(1, 2)
        searches_on_gpu = scores_BTS.is_cuda and not torch.is_grad_enabled()  # the kernel sums in fp32 in any case
        full = scores_BTS.dtype if searches_on_gpu else torch.promote_types(scores_BTS.dtype, torch.float32)
        weights_BTS = torch.where(memory.mask_BS.unsqueeze(1), scores_BTS, -torch.inf).softmax(dim=-1, dtype=full)
        return weights_BTS.to(memory.values_BSH.dtype) @ memory.values_BSH, weights_BTS
