"""Count the matrix products of a model for a batch, and from them its operations and the limit of its speed."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from machine import Product, product_seconds

from nmtcli.data.batches import Batch
from nmtcli.model.attention import DotAttention
from nmtcli.model.cells import RecurrentLayer
from nmtcli.model.seq2seq import Seq2Seq

BACKWARD = 2  # backward products for each forward product: gradients of the input and of the weights


class Part(NamedTuple):
    """A part of a forward pass.

    Attributes:
        name: name for tables.
        product: with one row for each real token; padding is not counted.
        step_rows: rows of one step, if each step depends on the previous one; 0: all rows at once.
    """

    name: str
    product: Product
    step_rows: int = 0

    @property
    def steps(self) -> float:
        """Number of steps; a fraction, because padding is not counted."""
        return self.product.rows / self.step_rows if self.step_rows else 1.0

    @property
    def step(self) -> Product:
        """The product of one step."""
        return self.product._replace(rows=self.step_rows) if self.step_rows else self.product


def forward_parts(model: Seq2Seq, batch: Batch) -> Iterator[Part]:
    """Yield the matrix products of a forward pass of the default architecture (`--arch gnmt`).

    Embedding look-ups are not products. Attention's products with the memory are counted with the real lengths.
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
    pairs = int((lengths_B * batch.target_mask_BT.sum(dim=1)).sum())  # pairs of a target and a source position
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
    """Count the floating-point operations of an update, forward and backward."""
    return (1 + BACKWARD) * sum(part.product.flops for part in forward_parts(model, batch))


def training_limit(
    model: Seq2Seq, batch: Batch, precision: str, device: torch.device, *, step_by_step: bool = True
) -> float:
    """Measure how long the matrix products of an update take, each in isolation and nothing else [s].

    Each forward product has two backward products that take as long. The gradient of a recurrent layer's weights is one
    product for all steps. Attention's products are taken to run at the mean rate of the others.

    Args:
        model, batch: model and batch of the update.
        precision, device: where the products run.
        step_by_step: multiply the states of a recurrent layer step by step, as any implementation must; False: all
            steps at once, which is only a lower bound.
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
        each = part.steps * known[part.step] if step_by_step else for_weights  # forward, and gradient of the input
        seconds += 2 * each + for_weights
    return seconds * sum(part.product.flops for part in parts) / flops
