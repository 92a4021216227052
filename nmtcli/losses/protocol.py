"""What every loss gives the training loop, which knows none of them by name."""

from typing import NamedTuple, Protocol

from torch import Tensor

from nmtcli.data.batches import Batch
from nmtcli.model.seq2seq import Seq2Seq


class LossSums(NamedTuple):
    """Sums over a batch; whoever wants a mean divides.

    Attributes:
        loss: what is trained on; has a gradient. It is a sum over as many things as `Loss.count` says.
        nll: negative log-likelihood of the reference's tokens, without smoothing, given what the decoder was fed; it
            has no gradient [nats]. None where a loss does not compute it.
    """

    loss: Tensor
    nll: Tensor | None


class Loss(Protocol):
    """A loss of a model on a batch."""

    def count(self, batch: Batch) -> int:
        """What a mean of this loss is over: the batch's target tokens, or its sentences."""

    def __call__(self, model: Seq2Seq, batch: Batch, update: int) -> LossSums:
        """The sums.

        Args:
            model: in training mode, on the batch's device.
            batch: sentence pairs.
            update: updates done before; what follows a schedule follows this.
        """
