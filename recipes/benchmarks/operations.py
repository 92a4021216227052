"""How much a model has to do: its matrix products for a batch, hence its floating-point operations, hence its limit."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from machine import Product, product_seconds

from nmtcli.data.batches import Batch
from nmtcli.model.attention import DotAttention
from nmtcli.model.cells import RecurrentLayer
from nmtcli.model.seq2seq import Seq2Seq

BACKWARD = 2  # products on the way back for each on the way there: for the input and for the weights


class Part(NamedTuple):
    """A part of a forward pass.

    Attributes:
        name: of what.
        product: with a row for each real token; what stands in padding counts as nothing.
        step_rows: rows of one step, where each step needs what the one before has given; 0: all rows at once.
    """

    name: str
    product: Product
    step_rows: int = 0

    @property
    def steps(self) -> float:
        """How many there are; a fraction, for padding is left out."""
        return self.product.rows / self.step_rows if self.step_rows else 1.0

    @property
    def step(self) -> Product:
        """The product of one step."""
        return self.product._replace(rows=self.step_rows) if self.step_rows else self.product


def forward_parts(model: Seq2Seq, batch: Batch) -> Iterator[Part]:
    """The products of a forward pass.

    Embeddings are looked up, which is no product. Attention's products with the memory are counted with the sentences'
    real lengths. The default wiring only (`--arch gnmt`).
    """
    source, target = batch.source_tokens, batch.target_tokens
    sentences = len(batch.source_BS)
    for layer in (*model.encoder.forward_layers, *model.encoder.backward_layers):
        yield from _of_layer("encoder", layer, source, sentences)
    for layer in model.decoder.layers:
        yield from _of_layer("decoder", layer, target, sentences)
    attention = model.decoder.attention
    assert attention is not None
    if not isinstance(attention, DotAttention):
        keys = attention.project_keys
        yield Part("keys", Product(source, keys.in_features, keys.out_features))
    assert model.decoder.bridge is not None
    yield Part("first state", Product(sentences, model.decoder.bridge.in_features, model.decoder.bridge.out_features))
    lengths_B = batch.source_mask_BS.sum(dim=1)
    pairs = int((lengths_B * batch.target_mask_BT.sum(dim=1)).sum())  # of a target and a source position
    hidden = model.decoder.hidden_size
    yield Part("scores", Product(1, hidden, pairs))
    yield Part("contexts", Product(1, pairs, model.decoder.readout.in_features - hidden))
    yield Part("readout", Product(target, model.decoder.readout.in_features, model.decoder.readout.out_features))
    yield Part("projection", Product(target, *reversed(model.projection_VE.shape)))


def _of_layer(name: str, layer: RecurrentLayer, tokens: int, sentences: int) -> Iterator[Part]:
    outputs = layer.cell.gates * layer.kernel.hidden_size
    yield Part(f"{name}, inputs", Product(tokens, layer.kernel.input_size, outputs))
    yield Part(f"{name}, states", Product(tokens, layer.kernel.hidden_size, outputs), sentences)


def training_flops(model: Seq2Seq, batch: Batch) -> int:
    """Operations of an update: forward and backward."""
    return (1 + BACKWARD) * sum(part.product.flops for part in forward_parts(model, batch))


def training_limit(
    model: Seq2Seq, batch: Batch, precision: str, device: torch.device, *, step_by_step: bool = True
) -> float:
    """How long the products of an update would take if they were all, as fast as each runs by itself [seconds].

    On the way back there are two for each on the way there, and each takes as long. The gradient of a recurrent layer's
    weights is one product for all steps. The products of attention are counted at the rate of the others.

    Args:
        model, batch: of the update.
        precision, device: of the products.
        step_by_step: a recurrent layer multiplies the states of one step after the other, as it has to; else those of
            all steps at once, as nothing could.
    """
    seconds, flops = 0.0, 0
    parts = list(forward_parts(model, batch))
    known: dict[Product, float] = {}
    for part in parts:
        if part.product.rows == 1:
            continue
        flops += part.product.flops
        for product in (part.product, part.step):
            if product not in known:
                known[product] = product_seconds(product, precision, device)
        for_weights = known[part.product]
        each = part.steps * known[part.step] if step_by_step else for_weights  # forward, and for the input
        seconds += 2 * each + for_weights
    return seconds * sum(part.product.flops for part in parts) / flops
