"""Max-margin loss between the candidate translation with the highest reward and the best-scoring other candidate."""

import torch
from torch import Tensor

from nmtcli.data.batches import Batch
from nmtcli.losses.candidates import Candidates, CandidateSearch
from nmtcli.losses.protocol import LossSums
from nmtcli.model.seq2seq import Seq2Seq


class MaxMargin:
    """Margin loss between u*, the candidate with the highest reward, and v, the best-scoring of the other candidates.

        max(0, reward(u*) - reward(v) - s(u*) + s(v))

    The score s is the mean log-probability per token. The loss is 0 if all candidates have the same reward.

    Args:
        search: finds and scores the candidates.
    Source:
        Edunov et al. 2018, section 3.2.
    """

    def __init__(self, search: CandidateSearch) -> None:
        self.search = search

    def count(self, batch: Batch) -> int:
        """Return the number of sentences."""
        return len(batch.source_BS)

    def __call__(self, model: Seq2Seq, batch: Batch, update: int) -> LossSums:
        """Return the sum of the margin losses [nats/token] as `loss`, and None as `nll`."""
        return LossSums(margin(self.search(model, batch)).sum(), None)


def margin(candidates: Candidates) -> Tensor:
    """Return the margin loss of each sentence; if several candidates have the highest reward, u* is the first one."""
    scores_BC, rewards_BC, mask_BC = candidates
    best_B1 = candidates.best()
    is_best_BC = torch.zeros_like(mask_BC).scatter(1, best_B1, True)
    favourite_B1 = scores_BC.masked_fill(is_best_BC, -torch.inf).argmax(dim=1, keepdim=True)
    ahead_BC = rewards_BC - scores_BC.masked_fill(~mask_BC, 0.0)
    difference_B = (ahead_BC.gather(1, best_B1) - ahead_BC.gather(1, favourite_B1)).squeeze(1)
    return difference_B.clamp(min=0.0).masked_fill(~candidates.differ(), 0.0)
