"""Attention of the decoder over the encoded source, with dot, general or additive scores."""

from typing import NamedTuple, Self

import torch
from torch import Tensor, nn

from nmtcli.model.linear import Linear


class Memory(NamedTuple):
    """Encoded source that the decoder attends to, computed once per batch.

    Attributes:
        values_BSH: outputs of the encoder.
        keys_BSD: attention keys: `values_BSH`, projected and scaled as the kind of attention requires.
        mask_BS: True on real tokens.
        summary_BH: one vector for each whole sentence.
    """

    values_BSH: Tensor
    keys_BSD: Tensor
    mask_BS: Tensor
    summary_BH: Tensor

    def select(self, sentences_B: Tensor) -> Self:
        """Return the memory of the given sentences, in the given order."""
        return self.__class__(*(values[sentences_B] for values in self))

    def keep(self, sentences_B: Tensor) -> Self:
        """Return what `select` returns; on a CPU, this overwrites the original memory, which must not be used again."""
        mask_BS, summary_BH = self.mask_BS[sentences_B], self.summary_BH[sentences_B]
        values_BSH = kept_in_place(self.values_BSH, sentences_B)
        keys_BSD = values_BSH if self.keys_BSD is self.values_BSH else kept_in_place(self.keys_BSD, sentences_B)
        return self.__class__(values_BSH, keys_BSD, mask_BS, summary_BH)


def kept_in_place(values_N: Tensor, rows_R: Tensor) -> Tensor:
    """Return `values_N[rows_R]`; on a CPU, write these rows over the first rows of `values_N` and return a view.

    >>> kept_in_place(torch.arange(5), torch.tensor([0, 4, 2])).tolist()
    [0, 4, 2]
    """
    if values_N.is_cuda:  # finding the moved rows would wait for the GPU
        return values_N[rows_R]
    moved_R = (rows_R != torch.arange(len(rows_R))).nonzero().flatten()
    values_N[moved_R] = values_N[rows_R[moved_R]]
    return values_N[: len(rows_R)]


class Attention(nn.Module):
    """Compute attention weights over the source and the weighted sum of the values; subclasses define the scores.

    Args:
        query_size: width of the queries, the hidden size of the decoder.
        value_size: width of the memory.
        scaled: if True, divide dot and general scores by the square root of `query_size`. Without this division, the
            large outputs of a GRU or a plain RNN saturate the softmax: from the first update on, all weight falls on a
            single position, and learning is slow.
    Source:
        scaled: Vaswani et al. 2017, section 3.2.1.
    """

    def __init__(self, query_size: int, value_size: int, *, scaled: bool) -> None:
        super().__init__()
        self.scale = query_size**-0.5 if scaled else 1.0

    def keys(self, values_BSH: Tensor) -> Tensor:
        """Return keys_BSD: the values, projected and scaled as the kind of attention requires."""
        raise NotImplementedError

    def scores(self, query_BTD: Tensor, keys_BSD: Tensor) -> Tensor:
        """Return scores_BTS of each query with each key: for dot and general attention, their dot product."""
        return query_BTD @ keys_BSD.transpose(1, 2)

    def forward(self, query_BTD: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        """Attend from all query positions at once.

        Args:
            query_BTD: one query for each target position, or for each hypothesis of a sentence.
            memory: encoded source of the same B sentences.
        Returns:
            context_BTH and weights_BTS; the weights sum to 1 and are exactly 0 on padding.
        """
        scores_BTS = self.scores(query_BTD, memory.keys_BSD)
        searches_on_gpu = scores_BTS.is_cuda and not torch.is_grad_enabled()  # the GPU kernel sums in fp32 in any case
        full = scores_BTS.dtype if searches_on_gpu else torch.promote_types(scores_BTS.dtype, torch.float32)
        weights_BTS = torch.where(memory.mask_BS.unsqueeze(1), scores_BTS, -torch.inf).softmax(dim=-1, dtype=full)
        return weights_BTS.to(memory.values_BSH.dtype) @ memory.values_BSH, weights_BTS

    def _scaled(self, keys_BSD: Tensor) -> Tensor:
        return keys_BSD if self.scale == 1.0 else keys_BSD * self.scale


class DotAttention(Attention):
    """Attention with scores q . m, for a query q and a memory vector m of equal width.

    Source:
        Luong et al. 2015, eq. 8.
    """

    def __init__(self, query_size: int, value_size: int, *, scaled: bool) -> None:
        super().__init__(query_size, value_size, scaled=scaled)
        assert query_size == value_size

    def keys(self, values_BSH: Tensor) -> Tensor:
        """Return the values themselves, scaled if `scaled` is True."""
        return self._scaled(values_BSH)


class GeneralAttention(Attention):
    """Attention with scores q . W m, for a query q and a memory vector m.

    Source:
        Luong et al. 2015, eq. 8.
    """

    def __init__(self, query_size: int, value_size: int, *, scaled: bool) -> None:
        super().__init__(query_size, value_size, scaled=scaled)
        self.project_keys = nn.Linear(value_size, query_size, bias=False)

    def keys(self, values_BSH: Tensor) -> Tensor:
        """Return W m for each value m, scaled if `scaled` is True."""
        return self._scaled(self.project_keys(values_BSH))


class AdditiveAttention(Attention):
    """Attention with scores v . tanh(U q + W m), never scaled, for a query q and a memory vector m.

    Source:
        Bahdanau et al. 2015, appendix A.1.2.
    """

    def __init__(self, query_size: int, value_size: int, *, scaled: bool) -> None:
        super().__init__(query_size, value_size, scaled=scaled)
        self.project_keys = nn.Linear(value_size, query_size, bias=False)
        self.project_query = Linear(query_size, query_size)
        self.combine = nn.Linear(query_size, 1, bias=False)

    def keys(self, values_BSH: Tensor) -> Tensor:
        """Return W m for each value m, unscaled."""
        keys_BSD = self.project_keys(values_BSH)
        assert isinstance(keys_BSD, Tensor)
        return keys_BSD

    def scores(self, query_BTD: Tensor, keys_BSD: Tensor) -> Tensor:
        """Return scores_BTS: v . tanh(U q + key) for each query q and each key."""
        joined_BTSD = self.project_query(query_BTD).unsqueeze(2) + keys_BSD.unsqueeze(1)
        scores_BTS = self.combine(joined_BTSD.tanh()).squeeze(-1)
        assert isinstance(scores_BTS, Tensor)
        return scores_BTS


ATTENTIONS: dict[str, type[DotAttention | GeneralAttention | AdditiveAttention]] = {
    "general": GeneralAttention,
    "dot": DotAttention,
    "additive": AdditiveAttention,
}
