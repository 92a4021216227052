"""The whole model: T positions at once equal T steps, and padding touches nothing."""

import itertools

import pytest
import torch

from nmtcli.data.batches import Batch
from nmtcli.errors import ConfigError
from nmtcli.model.cells import CELLS
from tests.oracles import PAIRS, Shape, tiny

ARCHS = {
    "gnmt": ["general", "dot", "additive"],
    "luong": ["general", "dot", "additive"],
    "bahdanau": ["general", "dot", "additive"],
    "sutskever": ["none"],
    "cho": ["none"],
}
ENCODERS = [{}, {"bidirectional": False}, {"bidirectional": False, "reverse_source": True, "residual": False}]
SHAPES: list[Shape] = [
    {"arch": arch, "cell": cell, "encoder_layers": below, "decoder_layers": above, "attention": attention, **encoder}
    for arch, attentions in ARCHS.items()
    for (cell, (below, above), attention, encoder) in itertools.product(CELLS, [(1, 1), (2, 3)], attentions, ENCODERS)
]
SHAPES += [{**shape, "input_feeding": True} for shape in SHAPES if shape["arch"] == "luong"]
SHAPES += [{"arch": arch, "decoder_init": "mean"} for arch in ("gnmt", "luong", "bahdanau")]
SHAPES += [{"arch": arch, "decoder_init": "mean", "attention": "none"} for arch in ("sutskever", "cho")]
SHAPES += [{"arch": arch, "decoder_init": "zero"} for arch in ("gnmt", "luong", "bahdanau")]
SHAPES += [{"arch": "cho", "attention": "none", "decoder_init": "zero"}]


def named(shape: Shape) -> str:
    return "-".join(f"{name}" if value is True else str(value) for name, value in shape.items())


@pytest.mark.parametrize("shape", SHAPES, ids=named)
def test_forward_over_all_positions_equals_as_many_steps(shape: Shape) -> None:
    model = tiny(**shape)
    batch = Batch.of(PAIRS)
    memory, state = model.encode(batch.source_BS, batch.source_mask_BS)
    logits_BTV = model.logits(model.decode(memory, state, batch.target_input_BT))
    for t in range(batch.target_input_BT.shape[1]):
        logits_BKV, _, state = model.step(memory, state, batch.target_input_BT[:, t : t + 1])
        torch.testing.assert_close(logits_BKV[:, 0], logits_BTV[:, t], atol=1e-10, rtol=0)


def test_hypotheses_of_one_sentence_step_side_by_side_as_each_alone() -> None:
    model = tiny()
    batch = Batch.of(PAIRS)
    memory, state = model.encode(batch.source_BS, batch.source_mask_BS)
    tokens_BK = torch.tensor([[2, 5], [6, 7], [8, 2]])
    logits_BKV, weights_BKS, _ = model.step(memory, state.select(torch.tensor([0, 0, 1, 1, 2, 2])), tokens_BK)
    for k in range(2):
        alone_BKV, alone_BKS, _ = model.step(memory, state, tokens_BK[:, k : k + 1])
        torch.testing.assert_close(logits_BKV[:, k], alone_BKV[:, 0])
        torch.testing.assert_close(weights_BKS[:, k], alone_BKS[:, 0])


@pytest.mark.parametrize("shape", SHAPES, ids=named)
def test_a_sentence_alone_gives_what_it_gives_in_a_batch(shape: Shape) -> None:
    model = tiny(**shape)
    batch = Batch.of(PAIRS)
    logits_BTV = model.logits(model.decode(*model.encode(batch.source_BS, batch.source_mask_BS), batch.target_input_BT))
    for b, pair in enumerate(PAIRS):
        one = Batch.of([pair])
        alone_BTV = model.logits(model.decode(*model.encode(one.source_BS, one.source_mask_BS), one.target_input_BT))
        length = len(pair[1])
        torch.testing.assert_close(logits_BTV[b, :length], alone_BTV[0, :length], atol=1e-10, rtol=0)


@pytest.mark.parametrize("arch", ARCHS)
def test_the_decoder_never_sees_the_token_it_must_say(arch: str) -> None:
    model = tiny(arch=arch, attention=ARCHS[arch][0], input_feeding=arch == "luong")
    first, second = Batch.of([([5, 3], [6, 7, 8, 3])]), Batch.of([([5, 3], [6, 7, 9, 3])])
    one_TV, other_TV = (
        model.logits(model.decode(*model.encode(batch.source_BS, batch.source_mask_BS), batch.target_input_BT))[0]
        for batch in (first, second)
    )
    assert torch.equal(one_TV[:3], other_TV[:3])
    assert not torch.equal(one_TV[3], other_TV[3])


@pytest.mark.parametrize(
    ("joint", "tie", "matrices"), [(True, "auto", 1), (False, "auto", 2), (True, "target", 2), (False, "none", 3)]
)
def test_tied_embeddings_are_one_parameter(joint: bool, tie: str, matrices: int) -> None:
    model = tiny(joint=joint, tie_embeddings=tie)
    vocabulary_matrices = [p for p in model.parameters() if p.dim() == 2 and p.shape in ((17, 6), (20, 6))]
    assert len(vocabulary_matrices) == matrices
    assert (model.projection_VE is model.target_embedding_VE) == (tie != "none")


def test_tying_both_sides_needs_one_vocabulary() -> None:
    with pytest.raises(ConfigError, match="two"):
        tiny(joint=False, tie_embeddings="all")


@pytest.mark.parametrize(
    "kind", [{"dropout": 0.5}, {"dropout": 0.5, "variational_dropout": True}, {"word_dropout": 0.5}]
)
def test_dropout_acts_in_training_only(kind: Shape) -> None:
    model = tiny(**{"dropout": 0.0, **kind})
    batch = Batch.of(PAIRS)

    def encode() -> torch.Tensor:
        return model.encode(batch.source_BS, batch.source_mask_BS)[0].values_BSH

    assert torch.equal(encode(), encode())
    model.train()
    assert not torch.equal(encode(), encode())


def test_variational_dropout_is_one_mask_over_all_steps_of_a_decoder_that_steps() -> None:
    """With the same token at each position and no recurrence left, every position says the same."""
    model = tiny(arch="luong", input_feeding=True, dropout=0.5, variational_dropout=True, decoder_init="zero").train()
    with torch.no_grad():
        for layer in model.decoder.layers:
            parameters = dict(layer.kernel.named_parameters())
            parameters["weight_hh_l0"].zero_()
            parameters["bias_ih_l0"][8:16] = -1e9  # the forget gate: nothing is kept
            parameters["weight_ih_l0"][:, 6:] = 0  # what is fed is not read
        batch = Batch.of([([5, 6, 7, 3], [9, 9, 9, 3])])
        memory, state = model.encode(batch.source_BS, batch.source_mask_BS)
        readout_1TE = model.decode(memory, state, torch.full((1, 4), 9))
    assert (readout_1TE == 0).any()
    torch.testing.assert_close(readout_1TE, readout_1TE[:, :1].expand_as(readout_1TE))


def test_word_dropout_takes_whole_tokens() -> None:
    torch.manual_seed(8)
    model = tiny(dropout=0.0, word_dropout=0.25).train()
    seen: list[torch.Tensor] = []
    model.encoder.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    ids_BS = torch.randint(4, 17, (40, 50))
    model.encode(ids_BS, torch.ones_like(ids_BS, dtype=torch.bool))
    is_zero_BSE = seen[0] == 0
    assert torch.equal(is_zero_BSE.any(dim=-1), is_zero_BSE.all(dim=-1))
    assert float(is_zero_BSE.double().mean()) == pytest.approx(0.25, abs=0.03)
