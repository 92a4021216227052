"""Cross-entropy beside another loss."""

from nmtcli.data.batches import Batch
from nmtcli.losses.cross_entropy import CrossEntropy
from nmtcli.losses.protocol import Loss, LossSums
from nmtcli.model.seq2seq import Seq2Seq


class Interpolation:
    """A * the mean of cross-entropy over a batch's tokens + (1 - A) * the mean of another loss over what that counts.

    Over accumulated batches both are weighted by what the other loss counts.

    Args:
        cross_entropy: the one.
        other: the other.
        share: A.
    Source:
        Edunov et al. 2018, section 3.3; Shen et al. 2016 and Wu et al. 2016 do likewise.
    """

    def __init__(self, cross_entropy: CrossEntropy, other: Loss, share: float) -> None:
        self.cross_entropy = cross_entropy
        self.other = other
        self.share = share

    def count(self, batch: Batch) -> int:
        """See `Loss.count`: what the other loss counts."""
        return self.other.count(batch)

    def __call__(self, model: Seq2Seq, batch: Batch, update: int) -> LossSums:
        """See `Loss`; nll is cross-entropy's."""
        tokens = self.cross_entropy(model, batch, update)
        other = self.other(model, batch, update)
        weight = self.share * self.count(batch) / self.cross_entropy.count(batch)
        return LossSums(weight * tokens.loss + (1 - self.share) * other.loss, tokens.nll)
