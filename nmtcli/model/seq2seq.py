"""The encoder-decoder: embeddings, encoder, decoder and output projection."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nmtcli.config import ModelConfig
from nmtcli.errors import ConfigError
from nmtcli.model.attention import Memory
from nmtcli.model.cells import RecurrentLayer
from nmtcli.model.decoder import DECODERS, State
from nmtcli.model.dropout import Drop, Dropout, dropout
from nmtcli.model.encoder import Encoder
from nmtcli.model.init import initialise
from nmtcli.model.linear import Int8Matrix, Linear, Matrix, linear, quantised


def forget_casts() -> None:
    """Clear autocast's cache; call this between a search and a pass with gradients in the same autocast context.

    Otherwise, torch before 2.10 would reuse the bf16 copies of the weights made during the search, which carry no
    gradients (pytorch issue 158232).
    """
    torch.clear_autocast_cache()


class Projection(NamedTuple):
    """Matrix and bias of the output projection, which maps readouts to logits."""

    matrix: Matrix
    bias_V: Tensor


class Seq2Seq(nn.Module):
    """Translation model; one call of `decode` over T positions and T calls of `step` agree up to rounding.

    Args:
        config: model options.
        source_size, target_size: sizes of the vocabularies.
        joint: True if source and target share one vocabulary.
    Raises:
        ConfigError: `tie_embeddings` is "all", but source and target do not share a vocabulary.
    """

    def __init__(self, config: ModelConfig, *, source_size: int, target_size: int, joint: bool) -> None:
        super().__init__()
        tie = config.tie_embeddings
        if tie == "auto":
            tie = "all" if joint else "target"
        if tie == "all" and not joint:
            raise ConfigError(
                "--tie-embeddings all needs one vocabulary, but the data has two", "Use --tie-embeddings target"
            )
        embedding, hidden = config.embedding_size, config.hidden_size
        self.source_embedding = nn.Embedding(source_size, embedding)
        self.target_embedding = nn.Embedding(target_size, embedding) if tie != "all" else None
        self.projection = nn.Linear(embedding, target_size, bias=False) if tie == "none" else None
        self.projection_bias_V = nn.Parameter(torch.empty(target_size))
        self.int8_weights: Int8Matrix | None = None  # set by `quantise`: the matrix of the output projection
        self.dropout = Dropout(config.dropout, config.variational_dropout)
        self.encoder = Encoder(
            config.cell,
            layers=config.encoder_layers,
            input_size=embedding,
            hidden_size=hidden,
            bidirectional=config.bidirectional,
            reverse_source=config.reverse_source,
            residual=config.residual,
            dropout=self.dropout,
        )
        self.decoder = DECODERS[config.arch](config, input_size=embedding, memory_size=hidden, dropout=self.dropout)
        self.summary = "mean" if config.decoder_init == "mean" else "last"
        self.word_dropout = config.word_dropout
        self.embedding_scale = embedding**0.5 if config.scale_embeddings else 1.0
        initialise(self, init=config.init, scale=config.init_scale, forget_bias=config.forget_bias)

    @property
    def target_embedding_VE(self) -> Tensor:
        """Target embedding matrix; this is also the source embedding matrix if all embeddings are tied."""
        return (self.target_embedding or self.source_embedding).weight

    @property
    def projection_VE(self) -> Tensor:
        """Matrix of the output projection; this is also the target embedding matrix if the two are tied."""
        return self.projection.weight if self.projection is not None else self.target_embedding_VE

    def encode(self, source_BS: Tensor, mask_BS: Tensor) -> tuple[Memory, State]:
        """Encode the source.

        Args:
            source_BS: source ids, ending in EOS, padded on the right.
            mask_BS: True on real tokens, at least one per sentence.
        Returns:
            the memory, and the decoder's first state, with one hypothesis per sentence.
        """
        drop = self.dropout.over_a_sentence(self.training)
        embedded_BSE = self._embed(source_BS, self.source_embedding.weight, drop)
        lengths_B = mask_BS.sum(dim=1)
        values_BSH, last_BH = self.encoder(embedded_BSE, lengths_B)
        summary_BH = last_BH
        if self.summary == "mean":
            sums_BH = values_BSH.masked_fill(~mask_BS.unsqueeze(-1), 0.0).sum(dim=1)
            summary_BH = sums_BH / lengths_B.unsqueeze(1).to(sums_BH.dtype)
        attention = self.decoder.attention
        keys_BSD = values_BSH if attention is None else attention.keys(values_BSH)
        return Memory(values_BSH, keys_BSD, mask_BS, summary_BH), self.decoder.first_state(summary_BH)

    def decode(self, memory: Memory, state: State, target_BT: Tensor) -> Tensor:
        """Compute the readouts at all target positions; each depends only on the target tokens read up to its position.

        Args:
            memory, state: from `encode`.
            target_BT: ids read by the decoder, starting with BOS.
        Returns:
            readout_BTE, the input of `logits` or of a loss.
        """
        drop = self.dropout.over_a_sentence(self.training)
        embedded_BTE = self._embed(target_BT, self.target_embedding_VE, drop)
        readout_BTE, _ = self.decoder(embedded_BTE, memory, state)
        assert isinstance(readout_BTE, Tensor)
        return readout_BTE

    def step(self, memory: Memory, state: State, tokens_BK: Tensor) -> tuple[Tensor, Tensor, State]:
        """Decode one token for each of the K hypotheses of each sentence.

        Args:
            memory: encoded source of B sentences.
            state: state of B * K hypotheses.
            tokens_BK: last id of each hypothesis; BOS in the first step.
        Returns:
            logits_BKV of the next token, attention weights_BKS, and the next state.
        """
        readout_BKE, weights_BKS, state = self.advance(memory, state, tokens_BK)
        return self.logits(readout_BKE), weights_BKS, state

    def advance(
        self, memory: Memory, state: State, tokens_BK: Tensor, drop: Drop | None = None
    ) -> tuple[Tensor, Tensor, State]:
        """Take the same step as `step`, without the output projection: return readout_BKE in place of the logits.

        Args:
            memory, state, tokens_BK: as in `step`.
            drop: dropout function; pass the same one to all steps that share masks. None: make a new one for this step.
        """
        drop = drop or self.dropout.over_a_sentence(self.training)
        embedded_BKE = self._embed(tokens_BK, self.target_embedding_VE, drop)
        return self.decoder.step(embedded_BKE, memory, state, drop)

    def projection_to(self, ids_U: Tensor) -> Projection:
        """Return the output projection, restricted to the given target ids."""
        matrix = self.int8_weights.rows(ids_U) if self.int8_weights else self.projection_VE[ids_U]
        return Projection(matrix, self.projection_bias_V[ids_U])

    def logits(self, readout_BTE: Tensor, projection: Projection | None = None) -> Tensor:
        """Return logits_BTV, in fp32 or better.

        Args:
            readout_BTE: from `decode` or `advance`.
            projection: output projection to use, such as a shortlist's; None: the model's own.
        """
        matrix, bias_V = projection or Projection(self.int8_weights or self.projection_VE, self.projection_bias_V)
        if readout_BTE.dtype != torch.bfloat16 and not torch.is_autocast_enabled(readout_BTE.device.type):
            return linear(readout_BTE, matrix, bias_V)
        logits_BTV = linear(readout_BTE, matrix)
        full = torch.promote_types(logits_BTV.dtype, torch.float32)
        return logits_BTV.to(full) + bias_V.to(full)

    def quantise(self) -> None:
        """Switch the model to int8 weights; for use on a CPU only.

        The matrices for the attention keys and the decoder's first state, and the vector of additive attention, stay in
        floating point. So does the encoder if its cells do not run faster in int8.
        """
        for module in self.decoder.modules():
            if isinstance(module, RecurrentLayer | Linear):
                module.quantise()
        for module in self.encoder.modules():
            if isinstance(module, RecurrentLayer) and module.cell.int8_encodes_faster:
                module.quantise()
        self.int8_weights = quantised(self.projection_VE)

    def join_layers(self) -> None:
        """Join the recurrent products of the decoder's layers; see `Decoder.join_layers`."""
        self.decoder.join_layers()

    @contextmanager
    def searching(self) -> Iterator[None]:
        """Context manager for a search: disable dropout and gradients, and restore the previous mode afterwards."""
        was_training = self.training
        self.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self.train(was_training)
            forget_casts()

    def _embed(self, ids_BT: Tensor, matrix_VE: Tensor, drop: Drop) -> Tensor:
        """Return the input of the recurrent layers: the embeddings of the ids, scaled and with dropout applied.

        The scale makes the magnitude of the embeddings match that of the hidden states at any embedding width. The
        weights in the matrix itself stay small in magnitude, as a tied output projection requires.
        """
        embedded_BTE = F.embedding(ids_BT, matrix_VE) * self.embedding_scale
        if self.word_dropout and self.training:
            ones_BT1 = torch.ones_like(embedded_BTE[..., :1])
            embedded_BTE = embedded_BTE * dropout(ones_BT1, self.word_dropout, self.training)
        return drop("embedding", embedded_BTE)
