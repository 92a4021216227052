"""Expected risk over candidate translations, also known as minimum risk training."""

import torch
from torch import Tensor

from nmtcli.data.batches import Batch
from nmtcli.losses.candidates import Candidates, CandidateSearch
from nmtcli.losses.protocol import LossSums
from nmtcli.model.seq2seq import Seq2Seq


class Risk:
    """Expected value of 1 - reward, under the model's own distribution over the candidates for a sentence.

        Q(u) = softmax of alpha * s(u) over the candidates,     risk = sum over u of Q(u) * (1 - reward(u))

    The score s is the mean log-probability per token.

    Args:
        search: finds and scores the candidates.
        alpha: sharpness of Q; at 0, Q is uniform over the candidates.
    Source:
        Shen et al. 2016, eq. 13, where s is the sum of log-probabilities; with the mean: Edunov et al. 2018, section
        3.2.
    """

    def __init__(self, search: CandidateSearch, alpha: float) -> None:
        self.search = search
        self.alpha = alpha

    def count(self, batch: Batch) -> int:
        """Return the number of sentences."""
        return len(batch.source_BS)

    def __call__(self, model: Seq2Seq, batch: Batch, update: int) -> LossSums:
        """Return the sum of the sentences' risks, each in [0, 1], as `loss`, and None as `nll`."""
        return LossSums(expected_risk(self.search(model, batch), self.alpha).sum(), None)


def expected_risk(candidates: Candidates, alpha: float) -> Tensor:
    """Return risk_B: the expected risk of each sentence."""
    scores_BC, rewards_BC, mask_BC = candidates
    sharpened_BC = (alpha * scores_BC.masked_fill(~mask_BC, 0.0)).masked_fill(~mask_BC, -torch.inf)
    return (sharpened_BC.softmax(dim=1) * (1 - rewards_BC)).sum(dim=1)
