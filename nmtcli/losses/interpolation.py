"""The interpolation of cross-entropy and another loss."""

from nmtcli.data.batches import Batch
from nmtcli.losses.cross_entropy import CrossEntropy
from nmtcli.losses.protocol import Loss, LossSums
from nmtcli.model.seq2seq import Seq2Seq


class Interpolation:
    """A * cross-entropy per target token + (1 - A) * another loss per token or sentence, whichever `other` counts.

    Over accumulated batches both terms are weighted by `other.count`.

    Args:
        cross_entropy: has the weight A.
        other: has the weight 1 - A.
        share: A.
    Source:
        Edunov et al. 2018, section 3.3; also Shen et al. 2016 and Wu et al. 2016.
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
