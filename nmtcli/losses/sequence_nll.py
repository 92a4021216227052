"""Negative log-likelihood of the best candidate translation, normalised over the candidates."""

from torch import Tensor

from nmtcli.data.batches import Batch
from nmtcli.losses.candidates import Candidates, CandidateSearch
from nmtcli.losses.protocol import LossSums
from nmtcli.model.seq2seq import Seq2Seq


class SequenceNLL:
    """Loss -log p(u*), where u* is the candidate with the highest reward; 0 if all candidates have the same reward.

        p(u) = softmax of s(u) over the candidates

    The score s is the mean log-probability per token.

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
        """Return the sum of -log p(u*) [nats] as `loss`, and None as `nll`."""
        return LossSums(nll_of_best(self.search(model, batch)).sum(), None)


def nll_of_best(candidates: Candidates) -> Tensor:
    """Return nll_B: -log p(u*) for each sentence; on ties for the highest reward, u* is the first candidate."""
    scores_BC, best_B1 = candidates.scores_BC, candidates.best()
    nll_B = scores_BC.logsumexp(dim=1) - scores_BC.gather(1, best_B1).squeeze(1)
    return nll_B.masked_fill(~candidates.differ(), 0.0)
