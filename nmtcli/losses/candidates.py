"""Candidate translations of each sentence, with their scores under the model and their rewards.

Losses over whole translations compare candidates. The candidates are found by beam search or by sampling, without
gradient and without dropout; duplicates are dropped. One fused pass of forced decoding then scores all candidates, with
gradient.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from nmtcli.config import SearchConfig
from nmtcli.data.batches import Batch
from nmtcli.data.subword import UNK, Subword
from nmtcli.losses.token_nll import token_nll
from nmtcli.model.seq2seq import Seq2Seq
from nmtcli.scoring.sentence import Reward
from nmtcli.search.host import SearchRules
from nmtcli.search.model_searcher import ModelSearcher
from nmtcli.search.translator import search_sentences

UNKNOWN = "⁇"  # text of an unknown word; not empty, so that a candidate gains no reward by omitting the word
LONGEST = 1.5  # maximum length of a candidate relative to its source, plus search.host.EXTRA_LENGTH [tokens]


class Candidates(NamedTuple):
    """Scores and rewards of the candidates for B sentences, at most C candidates each.

    Attributes:
        scores_BC: mean log-probability per token; minus infinity where there is no candidate [nats/token].
        rewards_BC: reward of each candidate, in [0, 1]; 0 where there is no candidate.
        mask_BC: True where there is a candidate.
    """

    scores_BC: Tensor
    rewards_BC: Tensor
    mask_BC: Tensor

    def best(self) -> Tensor:
        """Return index_B1: the index of each sentence's candidate with the highest reward; on ties, the first one."""
        return self.rewards_BC.masked_fill(~self.mask_BC, -1.0).argmax(dim=1, keepdim=True)

    def differ(self) -> Tensor:
        """Return differ_B: True where the candidates of a sentence do not all have the same reward."""
        lowest_B = self.rewards_BC.masked_fill(~self.mask_BC, 2.0).amin(dim=1)
        return self.rewards_BC.masked_fill(~self.mask_BC, -1.0).amax(dim=1) > lowest_B


class CandidateSearch:
    """Find candidates, score them with the model and compute their rewards.

    Args:
        count: beam size, or number of samples per sentence.
        by: how candidates are found: `beam` (beam search) or `samples` (sampling).
        with_reference: if True, add the reference as a candidate, unless it contains an unknown piece. If the search
            finds no candidate, the reference is added in any case.
        target: subword model of the target side.
        reward: computes the reward of each candidate, given the reference.
    """

    def __init__(self, *, count: int, by: str, with_reference: bool, target: Subword, reward: Reward) -> None:
        search: dict[str, Any] = {"beam": count} if by == "beam" else {"beam": 1, "sample": True}
        self._config = SearchConfig(max_length=LONGEST, batch_tokens=1 << 14, **search)
        self._count = count
        self._with_reference = with_reference
        self._target = target
        self._reward = reward

    def __call__(self, model: Seq2Seq, batch: Batch) -> Candidates:
        """Return the candidates for a batch; their scores carry gradients."""
        found = self.find(model, batch)
        scores_N = mean_log_probabilities(model, batch, found)  # runs on the GPU while the host computes rewards
        rewards = [
            self._reward(self.texts(candidates), *self.texts([reference]))
            for candidates, reference in zip(found, _ids(batch.target_output_BT, batch.target_mask_BT), strict=True)
        ]
        mask_BC = _padded([[True] * len(candidates) for candidates in found], False, batch.source_BS.device)
        scores_BC = torch.full(mask_BC.shape, -torch.inf, dtype=scores_N.dtype, device=scores_N.device)
        scores_BC = scores_BC.masked_scatter(mask_BC, scores_N)
        return Candidates(scores_BC, _padded(rewards, 0.0, mask_BC.device), mask_BC)

    def texts(self, sentences: list[list[int]]) -> list[str]:
        """Convert ids to detokenised text, with `UNKNOWN` for each unknown word."""
        return [self._target.decode(ids, UNKNOWN) for ids in sentences]

    def find(self, model: Seq2Seq, batch: Batch) -> list[list[list[int]]]:
        """Return the ids of the candidates for each sentence, in search order and without duplicates."""
        sources = _ids(batch.source_BS, batch.source_mask_BS)
        with model.searching():
            rules = SearchRules.from_config(self._config, wanted=self._count)
            searcher = ModelSearcher([model], rules, self._target.forbidden_ids, device=batch.source_BS.device)
            numbers = torch.randint(1 << 62, (len(sources),)).tolist() if self._config.sample else [0] * len(sources)
            hypotheses = search_sentences(searcher, sources, numbers, self._config)
        found = [[one.ids for one in some] for some in hypotheses]
        for some, reference in zip(found, _ids(batch.target_output_BT, batch.target_mask_BT), strict=True):
            if not some or (self._with_reference and UNK not in reference):  # UNK is disallowed in a search
                some.append(reference)
        return [[list(ids) for ids in dict.fromkeys(map(tuple, some))] for some in found]


def mean_log_probabilities(model: Seq2Seq, batch: Batch, candidates: list[list[list[int]]]) -> Tensor:
    """Return scores_N: the mean log-probability per token of each candidate, computed in one pass [nats/token].

    Args:
        model: in training mode, so that dropout is applied.
        batch: the sentence pairs.
        candidates: for each sentence, the ids of its candidates, each ending in EOS.
    """
    device = batch.source_BS.device
    flat = [ids for some in candidates for ids in some]
    rows_N = torch.tensor([row for row, some in enumerate(candidates) for _ in some], device=device)
    targets = Batch.of([([0], ids) for ids in flat]).to(device)
    memory, state = model.encode(batch.source_BS, batch.source_mask_BS)
    readout_NTE = model.decode(memory.select(rows_N), state.select(rows_N), targets.target_input_BT)
    mask_NT = targets.target_mask_BT
    nll_R = token_nll(
        readout_NTE[mask_NT], model.projection_VE, model.projection_bias_V, targets.target_output_BT[mask_NT]
    )
    nll_NT = torch.zeros(mask_NT.shape, dtype=nll_R.dtype, device=device).masked_scatter(mask_NT, nll_R)
    return -nll_NT.sum(dim=1) / mask_NT.sum(dim=1)


def _ids(ids_BT: Tensor, mask_BT: Tensor) -> list[list[int]]:
    """Return the ids of each sentence, without padding."""
    lengths = mask_BT.sum(dim=1).tolist()
    return [ids[:length] for ids, length in zip(ids_BT.tolist(), lengths, strict=True)]


def _padded(rows: list[list[Any]], filling: Any, device: torch.device) -> Tensor:
    """Make a tensor from rows of unequal length, padding them with `filling`."""
    width = max(map(len, rows))
    return torch.tensor([row + [filling] * (width - len(row)) for row in rows], device=device)
