"""Negative log-likelihood of the best candidate translation, normalised over the candidates."""

from torch import Tensor

from nmtcli.data.batches import Batch
from nmtcli.losses.candidates import Candidates, CandidateSearch
from nmtcli.losses.protocol import LossSums
from nmtcli.model.seq2seq import Seq2Seq


class SequenceNLL:
    """-log p(u*) of the candidate u* with the highest reward; 0 where all candidates have the same reward.

        p(u) = softmax over the candidates of s(u)

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
        """Return the sum of -log p(u*) [nats]; the nll of the reference is None."""
        return LossSums(nll_of_best(self.search(model, batch)).sum(), None)


def nll_of_best(candidates: Candidates) -> Tensor:
    """Return nll_B of the candidate with the highest reward; on ties, of the first one."""
    scores_BC, best_B1 = candidates.scores_BC, candidates.best()
    nll_B = scores_BC.logsumexp(dim=1) - scores_BC.gather(1, best_B1).squeeze(1)
    return nll_B.masked_fill(~candidates.differ(), 0.0)
