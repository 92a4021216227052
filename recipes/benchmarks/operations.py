"""How much a model has to do: its matrix products for a batch, hence its floating-point operations, hence its limit."""

from collections.abc import Iterator

import torch
from machine import Product, product_seconds

from nmtcli.data.batches import Batch
from nmtcli.model.cells import GATES, RecurrentLayer
from nmtcli.model.seq2seq import Seq2Seq

BACKWARD = 2  # products on the way back for each on the way there: for the input and for the weights


def forward_products(model: Seq2Seq, batch: Batch) -> Iterator[Product]:
    """The products of a forward pass, over real tokens; what stands in padding counts as nothing.

    Embeddings are looked up, which is no product. Attention's products with the memory are counted with the sentences'
    real lengths. The default wiring only (`--arch gnmt`).
    """
    source, target = batch.source_tokens, batch.target_tokens
    sentences = len(batch.source_BS)
    for layer in (*model.encoder.forward_layers, *model.encoder.backward_layers):
        yield from _of_layer(layer, source)
    for layer in model.decoder.layers:
        yield from _of_layer(layer, target)
    attention = model.decoder.attention
    assert attention is not None
    if attention.score != "dot":
        yield Product(source, attention.project_keys.in_features, attention.project_keys.out_features)
    assert model.decoder.bridge is not None
    yield Product(sentences, model.decoder.bridge.in_features, model.decoder.bridge.out_features)
    lengths_B = batch.source_mask_BS.sum(dim=1)
    pairs = int((lengths_B * batch.target_mask_BT.sum(dim=1)).sum())  # of a target and a source position
    hidden = model.decoder.hidden_size
    yield Product(1, hidden, pairs)  # scores
    yield Product(1, pairs, model.decoder.readout.in_features - hidden)  # contexts
    yield Product(target, model.decoder.readout.in_features, model.decoder.readout.out_features)
    yield Product(target, *reversed(model.projection_VE.shape))


def _of_layer(layer: torch.nn.Module, tokens: int) -> Iterator[Product]:
    assert isinstance(layer, RecurrentLayer)
    outputs = GATES[layer.cell] * layer.kernel.hidden_size
    yield Product(tokens, layer.kernel.input_size, outputs)
    yield Product(tokens, layer.kernel.hidden_size, outputs)


def training_flops(model: Seq2Seq, batch: Batch) -> int:
    """Operations of an update: forward and backward."""
    return (1 + BACKWARD) * sum(product.flops for product in forward_products(model, batch))


def training_limit(model: Seq2Seq, batch: Batch, precision: str, device: torch.device) -> float:
    """How long the products of an update would take if they were all, as fast as each runs by itself [seconds].

    The products of attention are counted at the rate of the others.
    """
    seconds, flops = 0.0, 0
    products = list(forward_products(model, batch))
    rates: dict[Product, float] = {}
    for product in products:
        if product.rows > 1:
            if product not in rates:
                rates[product] = product_seconds(product, precision, device)
            seconds += rates[product]
            flops += product.flops
    return (1 + BACKWARD) * seconds * sum(product.flops for product in products) / flops
