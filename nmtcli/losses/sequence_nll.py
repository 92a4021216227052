"""The negative log-likelihood of the best candidate translation, among the candidates."""

from torch import Tensor

from nmtcli.data.batches import Batch
from nmtcli.losses.candidates import Candidates, CandidateSearch
from nmtcli.losses.protocol import LossSums
from nmtcli.model.seq2seq import Seq2Seq


class SequenceNLL:
    """-log of the probability, among the candidates, of the one with the highest reward; 0 where all are worth alike.

    Args:
        search: finds candidates.
    Source:
        Edunov et al. 2018, section 3.2: the probability of u is softmax over the candidates of s(u), the mean
        log-probability of a token.
    """

    def __init__(self, search: CandidateSearch) -> None:
        self.search = search

    def count(self, batch: Batch) -> int:
        """See `Loss.count`: sentences."""
        return len(batch.source_BS)

    def __call__(self, model: Seq2Seq, batch: Batch, update: int) -> LossSums:
        """See `Loss` [nats]."""
        return LossSums(nll_of_best(self.search(model, batch)).sum(), None)


def nll_of_best(candidates: Candidates) -> Tensor:
    """nll_B of the candidate with the highest reward; of equal ones the first."""
    scores_BC, best_B1 = candidates.scores_BC, candidates.best()
    nll_B = scores_BC.logsumexp(dim=1) - scores_BC.gather(1, best_B1).squeeze(1)
    return nll_B.masked_fill(~candidates.differ(), 0.0)
