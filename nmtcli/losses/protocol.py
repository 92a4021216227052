"""Interface between the training loop and a loss, so that the loop need not know any loss by name."""

from typing import NamedTuple, Protocol

from torch import Tensor

from nmtcli.data.batches import Batch
from nmtcli.model.seq2seq import Seq2Seq


class LossSums(NamedTuple):
    """Sums over a batch, never means: the caller divides.

    Attributes:
        loss: the training objective, with gradient; a sum over the tokens or sentences that `Loss.count` counts.
        nll: negative log-likelihood of the reference tokens, given the decoder's inputs [nats]; without label smoothing
            and without gradient. None if the loss does not compute it.
    """

    loss: Tensor
    nll: Tensor | None


class Loss(Protocol):
    """A training loss, computed from a model and a batch."""

    def count(self, batch: Batch) -> int:
        """Return the divisor for the mean of this loss: the number of target tokens or of sentences in the batch."""

    def __call__(self, model: Seq2Seq, batch: Batch, update: int) -> LossSums:
        """Return the sums over a batch.

        Args:
            model: in training mode, on the batch's device.
            batch: sentence pairs.
            update: number of completed updates; schedules depend on it.
        """
