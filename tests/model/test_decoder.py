"""Each decoder equals its equations, written as a plain loop: one sentence, one position, one layer after the other."""

from typing import Any

import pytest
import torch
from torch import Tensor

from nmtcli.config import ARCHITECTURES, ModelConfig
from nmtcli.data.batches import Batch
from nmtcli.errors import ConfigError
from nmtcli.model.attention import AdditiveAttention, GeneralAttention, Memory
from nmtcli.model.cells import CELLS, CellState
from nmtcli.model.decoder import DECODERS, Decoder, Run, State
from nmtcli.model.dropout import Drop, Dropout
from nmtcli.model.seq2seq import Seq2Seq

PAIRS = [([5, 6, 7, 8, 3], [9, 10, 12, 3]), ([4, 9, 9, 3], [11, 12, 13, 14, 15, 3])]


def model_of(arch: str, **options: object) -> Seq2Seq:
    torch.manual_seed(7)
    sizes = {"hidden_size": 8, "embedding_size": 6, "encoder_layers": 1, "init": "uniform", "init_scale": 0.6}
    config = ModelConfig(**{**ARCHITECTURES[arch], **sizes, "arch": arch, **options})
    return Seq2Seq(config, source_size=17, target_size=17, joint=True).double().eval()


def attend(decoder: Decoder, query_H: Tensor, memory: Memory) -> Tensor:
    """The context of one query: a sum over the source, weighted by a softmax."""
    attention = decoder.attention
    assert attention is not None
    values_SH = memory.values_BSH[0][memory.mask_BS[0]]
    scores = []
    for value_H in values_SH:
        if isinstance(attention, GeneralAttention):
            scores.append(query_H @ attention.project_keys.weight @ value_H / len(query_H) ** 0.5)
        else:
            assert isinstance(attention, AdditiveAttention)
            inner_H = attention.project_query(query_H) + attention.project_keys.weight @ value_H
            scores.append(attention.combine.weight[0] @ inner_H.tanh())
    weights_S = torch.stack(scores).softmax(dim=0)
    return weights_S @ values_SH


def by_hand(arch: str, decoder: Decoder, embedded_TE: Tensor, memory: Memory, state: State) -> list[Tensor]:
    """The readouts of one sentence."""
    layers = [state.layer(number) for number in range(len(decoder.layers))]
    fed_E = state.fed_NE[0]
    readouts = []
    for y_E in embedded_TE:
        first, above, top = [y_E], [], []
        if arch == "luong" and decoder.fed_size:
            first = [y_E, fed_E]
        if arch == "bahdanau":
            context_H = attend(decoder, layers[-1].hidden_NH[0], memory)
            first, top = [y_E, context_H], [context_H, y_E]
        if arch == "cho":
            first, top = [y_E, memory.summary_BH[0]], [memory.summary_BH[0], y_E]
        layers[0] = decoder.layers[0].step(torch.cat(first).unsqueeze(0), layers[0])
        below_H = layers[0].hidden_NH[0]
        if arch == "gnmt":
            context_H = attend(decoder, below_H, memory)
            above, top = [context_H], [context_H]
        for number in range(1, len(layers)):
            input_NE = torch.cat([below_H, *above]).unsqueeze(0)
            layers[number] = decoder.layers[number].step(input_NE, layers[number])
            below_H = layers[number].hidden_NH[0] + (below_H if decoder.residual else 0)
        if arch == "luong":
            top = [attend(decoder, below_H, memory)]
        fed_E = (decoder.readout.weight @ torch.cat([below_H, *top]) + decoder.readout.bias).tanh()
        readouts.append(fed_E)
    return readouts


CASES = [
    ("gnmt", {}),
    ("gnmt", {"decoder_layers": 3, "attention": "additive"}),
    ("gnmt", {"decoder_layers": 2, "residual": False}),
    ("luong", {"decoder_layers": 2}),
    ("luong", {"decoder_layers": 2, "input_feeding": False, "residual": True}),
    ("bahdanau", {}),
    ("bahdanau", {"decoder_layers": 2, "cell": "lstm"}),
    ("sutskever", {"decoder_layers": 2}),
    ("cho", {}),
    ("cho", {"decoder_layers": 2, "cell": "rnn"}),
]


@pytest.mark.parametrize(("arch", "options"), CASES, ids=lambda value: str(value))
def test_a_decoder_equals_its_equations(arch: str, options: dict[str, object]) -> None:
    model = model_of(arch, **options)
    for pair in PAIRS:
        batch = Batch.of([pair])
        memory, state = model.encode(batch.source_BS, batch.source_mask_BS)
        readout_TE = model.decode(memory, state, batch.target_input_BT)[0]
        embedded_TE = model.target_embedding_VE[batch.target_input_BT[0]] * model.embedding_scale
        expected = by_hand(arch, model.decoder, embedded_TE, memory, state)
        torch.testing.assert_close(readout_TE, torch.stack(expected), atol=1e-10, rtol=0)


STARTS = [(arch, init) for arch in ARCHITECTURES for init in ("last", "mean", "zero")]
STARTS.remove(("sutskever", "zero"))  # refused: see below


@pytest.mark.parametrize(("arch", "init"), STARTS)
def test_the_decoder_starts_from_what_decoder_init_says(arch: str, init: str) -> None:
    model = model_of(arch, decoder_init=init)
    batch = Batch.of(PAIRS)
    memory, state = model.encode(batch.source_BS, batch.source_mask_BS)
    for b, length in enumerate([5, 4]):
        values_SH = memory.values_BSH[b, :length]
        summary_H = values_SH.mean(dim=0)
        if init != "mean":
            is_reversed = not model.encoder.forward_layers
            ends = values_SH[0], values_SH[-1]
            half = 4 if model.encoder.forward_layers and model.encoder.backward_layers else 8
            summary_H = ends[0] if is_reversed else torch.cat([ends[1][:half], ends[0][half:]])
        torch.testing.assert_close(memory.summary_BH[b], summary_H)
        first_H = state.hidden_LNH[0, b]
        if init == "zero":
            assert model.decoder.bridge is None
            assert (first_H == 0).all()
        else:
            bridge = model.decoder.bridge
            assert bridge is not None
            torch.testing.assert_close(first_H, (bridge.weight @ summary_H + bridge.bias)[:8].tanh())


MISTAKES: dict[str, dict[str, Any]] = {
    "--attention is none": {"attention": "none"},
    "one fixed vector": {"arch": "cho", "attention": "dot"},
    "--input-feeding is for --arch luong": {"arch": "gnmt", "input_feeding": True},
    "both ends": {"reverse_source": True},
    "--decoder-init zero": {"arch": "sutskever", "attention": "none", "decoder_init": "zero"},
}


@pytest.mark.parametrize("said", MISTAKES)
def test_a_combination_that_makes_no_sense_is_refused(said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        ModelConfig(**MISTAKES[said])


def test_every_architecture_has_a_decoder() -> None:
    assert set(DECODERS) == set(ARCHITECTURES)


class TopFirst(Decoder):
    """Layer 1 reads the embeddings, and layer 0 reads layer 1."""

    def wire(self, embedded_BTE: Tensor, memory: Memory, state: State, run: Run, drop: Drop) -> tuple[Tensor, Tensor]:
        top_BTH = run(0, run(1, embedded_BTE, state.layer(1)))
        return self.readout(top_BTH).tanh(), memory.mask_BS.unsqueeze(1).expand(-1, embedded_BTE.shape[1], -1)


class TwoTransitions(Decoder):
    """Two layers pass on one state in each step, as in a conditional GRU (Sennrich et al. 2017)."""

    steps_in_training = True

    def wire(self, embedded_BTE: Tensor, memory: Memory, state: State, run: Run, drop: Drop) -> tuple[Tensor, Tensor]:
        middle_BKH = run(0, embedded_BTE, state.layer(1))
        middle = CellState(middle_BKH.flatten(0, 1), state.layer(0).cell_NH)
        top_BKH = run(1, embedded_BTE, middle)
        return self.readout(top_BKH).tanh(), memory.mask_BS.unsqueeze(1).expand(-1, embedded_BTE.shape[1], -1)


class Repeated(Decoder):
    """Runs layer 0 twice and layer 1 never."""

    def wire(self, embedded_BTE: Tensor, memory: Memory, state: State, run: Run, drop: Drop) -> tuple[Tensor, Tensor]:
        return run(0, run(0, embedded_BTE)), memory.mask_BS


def wired(kind: type[Decoder], cell: str) -> tuple[Decoder, Tensor, Memory, State]:
    """A decoder of two layers, all widths 8, with embeddings of 3 sentences and a state to start from."""
    torch.manual_seed(9)
    config = ModelConfig(
        **{**ARCHITECTURES["sutskever"], "arch": "sutskever", "cell": cell, "hidden_size": 8, "embedding_size": 8}
    )
    decoder = kind(config, input_size=8, memory_size=8, dropout=Dropout(0.0, variational=False)).double()
    values_BSH = torch.randn(3, 4, 8, dtype=torch.float64)
    memory = Memory(values_BSH, values_BSH, torch.ones(3, 4, dtype=torch.bool), values_BSH[:, 0])
    return decoder, torch.randn(3, 5, 8, dtype=torch.float64), memory, decoder.first_state(memory.summary_BH)


def readouts_by_steps(decoder: Decoder, embedded_BTE: Tensor, memory: Memory, state: State) -> tuple[Tensor, State]:
    drop = decoder.dropout.over_a_sentence(training=False)
    readouts = []
    for embedded_B1E in embedded_BTE.split(1, dim=1):
        readout_B1E, _, state = decoder.step(embedded_B1E, memory, state, drop)
        readouts.append(readout_B1E)
    return torch.cat(readouts, dim=1), state


@pytest.mark.parametrize("cell", CELLS)
def test_a_wiring_may_run_layers_in_any_order(cell: str) -> None:
    decoder, embedded_BTE, memory, state = wired(TopFirst, cell)
    whole_BTE, _ = decoder(embedded_BTE, memory, state)
    by_steps_BTE, last = readouts_by_steps(decoder, embedded_BTE, memory, state)
    torch.testing.assert_close(by_steps_BTE, whole_BTE, atol=1e-10, rtol=0)
    upper_BTH = decoder.layers[1](embedded_BTE, state.layer(1))
    torch.testing.assert_close(last.hidden_LNH[1], upper_BTH[:, -1], atol=1e-10, rtol=0)
    lower_BTH = decoder.layers[0](upper_BTH, state.layer(0))
    torch.testing.assert_close(last.hidden_LNH[0], lower_BTH[:, -1], atol=1e-10, rtol=0)


def test_a_wiring_may_hand_a_state_in() -> None:
    decoder, embedded_BTE, memory, state = wired(TwoTransitions, "gru")
    whole_BTE, _ = decoder(embedded_BTE, memory, state)
    by_steps_BTE, last = readouts_by_steps(decoder, embedded_BTE, memory, state)
    torch.testing.assert_close(by_steps_BTE, whole_BTE, atol=1e-10, rtol=0)
    passed, outputs = state.layer(1), []
    for embedded_BE in embedded_BTE.unbind(dim=1):
        middle = decoder.layers[0].step(embedded_BE, passed)
        passed = decoder.layers[1].step(embedded_BE, middle)
        outputs.append(decoder.readout(passed.hidden_NH).tanh())
    torch.testing.assert_close(whole_BTE, torch.stack(outputs, dim=1), atol=1e-10, rtol=0)
    torch.testing.assert_close(last.hidden_LNH, torch.stack([middle.hidden_NH, passed.hidden_NH]))


@pytest.mark.parametrize("form", ["whole", "steps"])
def test_a_wiring_that_leaves_a_layer_out_is_refused(form: str) -> None:
    decoder, embedded_BTE, memory, state = wired(Repeated, "lstm")
    with pytest.raises(RuntimeError, match=r"each of 2 layers once, but it ran \[0, 0\]"):
        (decoder if form == "whole" else lambda *given: readouts_by_steps(decoder, *given))(embedded_BTE, memory, state)
