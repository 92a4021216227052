"""Interpolation of cross-entropy with another loss."""

from nmtcli.data.batches import Batch
from nmtcli.losses.cross_entropy import CrossEntropy
from nmtcli.losses.protocol import Loss, LossSums
from nmtcli.model.seq2seq import Seq2Seq


class Interpolation:
    """Interpolated loss: A * cross-entropy per target token + (1 - A) * `other` per token or sentence.

    `other.count` determines whether `other` is per token or per sentence; if several batches are accumulated for one
    update, it also determines the weight of each batch.

    Args:
        cross_entropy: loss with weight A.
        other: loss with weight 1 - A.
        share: A, the share of cross-entropy in the loss.
    Source:
        Edunov et al. 2018, section 3.3; also Shen et al. 2016 and Wu et al. 2016.
    """

    def __init__(self, cross_entropy: CrossEntropy, other: Loss, share: float) -> None:
        self.cross_entropy = cross_entropy
        self.other = other
        self.share = share

    def count(self, batch: Batch) -> int:
        """Return the number of tokens or sentences that `other` counts."""
        return self.other.count(batch)

    def __call__(self, model: Seq2Seq, batch: Batch, update: int) -> LossSums:
        """Return the interpolated sum as `loss`, and the nll of the cross-entropy as `nll` [nats]."""
        tokens = self.cross_entropy(model, batch, update)
        other = self.other(model, batch, update)
        weight = self.share * self.count(batch) / self.cross_entropy.count(batch)
        return LossSums(weight * tokens.loss + (1 - self.share) * other.loss, tokens.nll)
