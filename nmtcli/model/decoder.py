"""The decoders: five ways to wire recurrent layers, attention and readout.

    gnmt        target embeddings -> first layer -> queries -> attention -> context
                [layer below; context] -> upper layers -> [top; context] -> readout
    luong       target embeddings -> all layers -> queries -> attention -> context; [top; context] -> readout;
                with input feeding, the first layer reads [embedding; last readout]
    bahdanau    previous state -> query -> attention -> context; [embedding; context] -> all layers;
                [top; context; embedding] -> readout
    sutskever   target embeddings -> all layers -> readout; the source enters only through the first state
    cho         [embedding; summary of the source] -> all layers; [top; summary; embedding] -> readout

[a; b] is the concatenation of a and b, and top is the output of the top layer. The readout is as wide as the
embeddings; the output projection turns it into logits.

If no layer reads the attention or the readout of the previous step, training needs no loop over time: each layer runs
over the whole target in one fused call. This holds for all wirings but two: `bahdanau`, and `luong` with input
feeding. Decoding takes one step at a time in all wirings, with the same weights.
"""

from typing import NamedTuple, Protocol, Self

import torch
from torch import Tensor, nn

from nmtcli.config import ModelConfig
from nmtcli.model.attention import ATTENTIONS, Memory
from nmtcli.model.cells import CELLS, CellState, RecurrentLayer, RecurrentLayers
from nmtcli.model.dropout import Drop, Dropout
from nmtcli.model.linear import Linear


class Run(Protocol):
    """Function that runs one layer of a decoder; `Decoder.wire` must call it exactly once per layer, in any order."""

    def __call__(self, number: int, input_BTE: Tensor, state: CellState | None = None, /) -> Tensor:
        """Run a layer over its input.

        Args:
            number: index of the layer, from 0; in a step, the layer's new state is stored under this index.
            input_BTE: input at T target positions, or, in a step, for the last tokens of T hypotheses per sentence.
            state: state of the layer before the first position, with one row per sentence or hypothesis; None: taken
                from the state passed to the decoder.
        Returns:
            output_BTH.
        """


class State(NamedTuple):
    """State that the decoder carries from step to step, for N = B * K hypotheses, grouped by sentence.

    Attributes:
        hidden_LNH: output of each layer in the previous step.
        cell_LNH: cell state of each layer of an LSTM; width 0 for GRU and RNN.
        fed_NE: readout of the previous step, if the decoder uses input feeding; otherwise width 0.
    """

    hidden_LNH: Tensor
    cell_LNH: Tensor
    fed_NE: Tensor

    def select(self, rows_N: Tensor) -> Self:
        """Return the state of the hypotheses in the given rows, in that order; rows may be repeated or omitted."""
        return self.__class__(self.hidden_LNH[:, rows_N], self.cell_LNH[:, rows_N], self.fed_NE[rows_N])

    def layer(self, number: int) -> CellState:
        """Return the state of one layer."""
        return CellState(self.hidden_LNH[number], self.cell_LNH[number])


class Decoder(nn.Module):
    """Map target embeddings and the memory to readouts, which the output projection reads; subclasses define `wire`.

    Args:
        config: model options.
        input_size: E, width of the embeddings and of the readout.
        memory_size: width of the memory.
        beside_first, beside_upper, beside_top: total width of the vectors that are concatenated to the input of the
            first layer, to the input of each upper layer, and to the input of the readout.
        dropout: applied to the input of each layer above the first, and before and after the readout.
    """

    steps_in_training = False  # True if each step needs results of the previous step

    def __init__(
        self,
        config: ModelConfig,
        *,
        input_size: int,
        memory_size: int,
        dropout: Dropout,
        beside_first: int = 0,
        beside_upper: int = 0,
        beside_top: int = 0,
    ) -> None:
        super().__init__()
        self.cell = CELLS[config.cell]
        hidden, layers = config.hidden_size, config.decoder_layers
        sizes = [input_size + beside_first] + [hidden + beside_upper] * (layers - 1)
        self.layers = RecurrentLayers(RecurrentLayer(config.cell, size, hidden) for size in sizes)
        self.attention = None
        if config.attention != "none":
            self.attention = ATTENTIONS[config.attention](hidden, memory_size, scaled=config.scale_attention)
        self.readout = Linear(hidden + beside_top, input_size)
        self.bridge = None
        if config.decoder_init != "zero":
            self.bridge = nn.Linear(memory_size, layers * hidden * (2 if self.cell.carries_cell else 1))
        self.recurrent_LHG: Tensor | None = None
        self.residual = config.residual
        self.dropout = dropout
        self.hidden_size = hidden
        self.fed_size = input_size if config.input_feeding else 0

    def first_state(self, summary_BH: Tensor) -> State:
        """Compute the state before the first step from a summary x of the source: hidden = tanh(W x), cell = V x.

        With --decoder-init zero, the state is zero. The cell state is a sum over time and is therefore kept in fp32
        even if the weights are bf16. The exception is a search on a GPU, which keeps it in bf16, as cuDNN does in
        training.
        """
        layers, batch = len(self.layers), len(summary_BH)
        if self.bridge is None:
            parts_LBH = summary_BH.new_zeros(2 * layers, batch, self.hidden_size)
        else:
            parts_LBH = self.bridge(summary_BH).unflatten(-1, (-1, self.hidden_size)).transpose(0, 1)
        searches_on_gpu = parts_LBH.is_cuda and not torch.is_grad_enabled()
        full = parts_LBH.dtype if searches_on_gpu else torch.promote_types(parts_LBH.dtype, torch.float32)
        cell_LBH = parts_LBH[layers:] if self.cell.carries_cell else parts_LBH[:layers, :, :0]
        return State(parts_LBH[:layers].tanh(), cell_LBH.to(full), parts_LBH.new_zeros(batch, self.fed_size))

    def forward(self, embedded_BTE: Tensor, memory: Memory, state: State) -> tuple[Tensor, Tensor]:
        """Decode the whole target at once, or step by step if the wiring requires it.

        Returns:
            readout_BTE and attention weights_BTS; equal to the results of T calls of `step` up to rounding.
        """
        drop = self.dropout.over_a_sentence(self.training)
        if not self.steps_in_training:
            return self._over_time(embedded_BTE, memory, state, drop)
        readouts, weights = [], []
        for embedded_B1E in torch.split(embedded_BTE, 1, dim=1):
            readout_B1E, weights_B1S, state = self.step(embedded_B1E, memory, state, drop)
            readouts.append(readout_B1E)
            weights.append(weights_B1S)
        return torch.cat(readouts, dim=1), torch.cat(weights, dim=1)

    def _over_time(self, embedded_BTE: Tensor, memory: Memory, state: State, drop: Drop) -> tuple[Tensor, Tensor]:
        """Decode the whole target with one fused call per layer."""
        ran: list[int] = []

        def run(number: int, input_BTE: Tensor, before: CellState | None = None, /) -> Tensor:
            ran.append(number)
            output_BTH = self.layers[number](input_BTE, state.layer(number) if before is None else before)
            assert isinstance(output_BTH, Tensor)
            return output_BTH

        read = self.wire(embedded_BTE, memory, state, run, drop)
        self._check_each_ran_once(ran)
        return read

    def wire(self, embedded_BTE: Tensor, memory: Memory, state: State, run: Run, drop: Drop) -> tuple[Tensor, Tensor]:
        """Map embeddings to readout_BTE and attention weights_BTS; each decoder defines its own wiring here.

        Args:
            embedded_BTE: embeddings at T target positions, or, in a step, of the last tokens of T hypotheses per
                sentence.
            memory: the encoded source.
            state: state of the decoder before the first position.
            run: runs one layer.
            drop: dropout function.
        """
        raise NotImplementedError

    def step(self, embedded_BKE: Tensor, memory: Memory, state: State, drop: Drop) -> tuple[Tensor, Tensor, State]:
        """Decode one token for each of the K hypotheses of each sentence.

        Args:
            embedded_BKE, memory, state, drop: as in `wire`.
        Returns:
            readout_BKE, attention weights_BKS, and the next state.
        """
        ran: list[int] = []
        after: dict[int, CellState] = {}
        from_hidden_LNG = None if self.recurrent_LHG is None else torch.bmm(state.hidden_LNH, self.recurrent_LHG)

        def run(number: int, input_BKE: Tensor, before: CellState | None = None, /) -> Tensor:
            ran.append(number)
            from_hidden_NG = None
            if before is None:
                before = state.layer(number)
                from_hidden_NG = None if from_hidden_LNG is None else from_hidden_LNG[number]
            after[number] = self.layers[number].step(input_BKE.flatten(0, 1), before, from_hidden_NG)
            return after[number].hidden_NH.view(*input_BKE.shape[:2], -1)

        readout_BKE, weights_BKS = self.wire(embedded_BKE, memory, state, run, drop)
        self._check_each_ran_once(ran)
        hidden_LNH = torch.stack([after[number].hidden_NH for number in range(len(after))])
        cell_LNH = torch.stack([after[number].cell_NH for number in range(len(after))])
        fed_NE = readout_BKE.flatten(0, 1)[:, : self.fed_size].to(state.fed_NE.dtype)
        return readout_BKE, weights_BKS, State(hidden_LNH, cell_LNH, fed_NE)

    def join_layers(self) -> None:
        """Make each step compute the recurrent products of all layers as one batched product; for use on a GPU.

        The product of a single layer has too few rows to keep a GPU busy. The weights must not change afterwards. A
        decoder whose cells have no fused step is left unchanged.
        """
        if self.cell.fused_step is not None:
            matrices = [layer.kernel.all_weights[0][1].detach().T for layer in self.layers]
            self.recurrent_LHG = torch.stack(matrices).contiguous()

    def _check_each_ran_once(self, ran: list[int]) -> None:
        if sorted(ran) != list(range(len(self.layers))):
            raise RuntimeError(f"`wire` must run each of {len(self.layers)} layers once, but it ran {ran}")

    def _upwards(self, layer_BTH: Tensor, run: Run, drop: Drop, *beside: Tensor) -> Tensor:
        """Run the layers above the first, each on the concatenation of the layer below and `beside`; with residuals."""
        for number in range(1, len(self.layers)):
            input_BTH = torch.cat([layer_BTH, *beside], dim=-1) if beside else layer_BTH
            output_BTH = run(number, drop(f"layer {number}", input_BTH))
            layer_BTH = output_BTH + layer_BTH if self.residual else output_BTH
        return layer_BTH

    def _read(self, drop: Drop, *parts: Tensor) -> Tensor:
        joined_BTH = torch.cat(parts, dim=-1) if len(parts) > 1 else parts[0]
        return drop("readout", self.readout(drop("top", joined_BTH)).tanh())

    def _attend(self, query_BTH: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        assert self.attention is not None
        context_BTH, weights_BTS = self.attention(query_BTH, memory)
        return context_BTH, weights_BTS


class GNMTDecoder(Decoder):
    """Decoder whose first layer computes the query; the context feeds the upper layers, if any, and the readout.

    Source:
        Wu et al. 2016, section 3; wired as in NVIDIA's GNMT v2, which likewise feeds the context to every upper layer.
    """

    def __init__(self, config: ModelConfig, *, input_size: int, memory_size: int, dropout: Dropout) -> None:
        beside = {"beside_upper": memory_size, "beside_top": memory_size}
        super().__init__(config, input_size=input_size, memory_size=memory_size, dropout=dropout, **beside)

    def wire(self, embedded_BTE: Tensor, memory: Memory, state: State, run: Run, drop: Drop) -> tuple[Tensor, Tensor]:
        """Run the first layer, attend with its output as the query, then run the upper layers."""
        layer_BTH = run(0, embedded_BTE)
        context_BTH, weights_BTS = self._attend(layer_BTH, memory)
        layer_BTH = self._upwards(layer_BTH, run, drop, context_BTH)
        return self._read(drop, layer_BTH, context_BTH), weights_BTS


class LuongDecoder(Decoder):
    """Decoder whose top layer computes the query; readout = tanh(W [context; top]), the paper's "attentional vector".

    Source:
        Luong, Pham and Manning 2015, section 3.1; input feeding: section 3.3.
    """

    def __init__(self, config: ModelConfig, *, input_size: int, memory_size: int, dropout: Dropout) -> None:
        beside = {"beside_first": input_size if config.input_feeding else 0, "beside_top": memory_size}
        super().__init__(config, input_size=input_size, memory_size=memory_size, dropout=dropout, **beside)
        self.steps_in_training = config.input_feeding

    def wire(self, embedded_BTE: Tensor, memory: Memory, state: State, run: Run, drop: Drop) -> tuple[Tensor, Tensor]:
        """Run all layers, then attend with the output of the top layer as the query."""
        if self.fed_size:
            fed_BKE = state.fed_NE.view(*embedded_BTE.shape)
            embedded_BTE = torch.cat([embedded_BTE, fed_BKE.to(embedded_BTE.dtype)], dim=-1)
        layer_BTH = self._upwards(run(0, embedded_BTE), run, drop)
        context_BTH, weights_BTS = self._attend(layer_BTH, memory)
        return self._read(drop, layer_BTH, context_BTH), weights_BTS


class BahdanauDecoder(Decoder):
    """Decoder that attends before its layers run: the query is the previous output of the top layer.

    Source:
        Bahdanau, Cho and Bengio 2015, section 3 and appendix A.2; the paper's maxout before the output is a tanh here.
    """

    steps_in_training = True

    def __init__(self, config: ModelConfig, *, input_size: int, memory_size: int, dropout: Dropout) -> None:
        beside = {"beside_first": memory_size, "beside_top": memory_size + input_size}
        super().__init__(config, input_size=input_size, memory_size=memory_size, dropout=dropout, **beside)

    def wire(self, embedded_BTE: Tensor, memory: Memory, state: State, run: Run, drop: Drop) -> tuple[Tensor, Tensor]:
        """Attend with the previous output of the top layer as the query, then run all layers."""
        query_BKH = state.hidden_LNH[-1].view(*embedded_BTE.shape[:2], -1)
        context_BKH, weights_BKS = self._attend(query_BKH, memory)
        context_BKH = context_BKH.to(embedded_BTE.dtype)
        layer_BKH = self._upwards(run(0, torch.cat([embedded_BTE, context_BKH], dim=-1)), run, drop)
        return self._read(drop, layer_BKH, context_BKH, embedded_BTE), weights_BKS


class FixedVectorDecoder(Decoder):
    """Decoder without attention: one vector for the source sets the first state; in `cho`, each step reads it too.

    Source:
        Sutskever, Vinyals and Le 2014 (the vector sets the first state); Cho et al. 2014, section 2.2 and appendix A
        (it is read at each step; the paper's maxout before the output is a tanh here). In the papers, the first state
        is the encoder's last state; here it is a learned map of the encoder's last output.
    """

    def __init__(self, config: ModelConfig, *, input_size: int, memory_size: int, dropout: Dropout) -> None:
        reads_summary = config.arch == "cho"
        beside = {"beside_first": memory_size, "beside_top": memory_size + input_size} if reads_summary else {}
        super().__init__(config, input_size=input_size, memory_size=memory_size, dropout=dropout, **beside)
        self.reads_summary = reads_summary

    def wire(self, embedded_BTE: Tensor, memory: Memory, state: State, run: Run, drop: Drop) -> tuple[Tensor, Tensor]:
        """Run all layers without attention; the attention weights are zeros."""
        beside: list[Tensor] = []
        if self.reads_summary:
            beside = [memory.summary_BH.to(embedded_BTE.dtype).unsqueeze(1).expand(-1, embedded_BTE.shape[1], -1)]
        first_BTE = torch.cat([embedded_BTE, *beside], dim=-1) if beside else embedded_BTE
        layer_BTH = self._upwards(run(0, first_BTE), run, drop)
        top = [layer_BTH, *beside, embedded_BTE] if beside else [layer_BTH]
        weights_BTS = torch.zeros(1, 1, 1, device=embedded_BTE.device).expand(
            *embedded_BTE.shape[:2], memory.mask_BS.shape[1]
        )
        return self._read(drop, *top), weights_BTS


DECODERS: dict[str, type[GNMTDecoder | LuongDecoder | BahdanauDecoder | FixedVectorDecoder]] = {
    "gnmt": GNMTDecoder,
    "luong": LuongDecoder,
    "bahdanau": BahdanauDecoder,
    "sutskever": FixedVectorDecoder,
    "cho": FixedVectorDecoder,
}
