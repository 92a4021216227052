"""The whole model: T positions at once equal T steps, and padding touches nothing."""

import itertools

import pytest
import torch

from nmtcli.config import ModelConfig
from nmtcli.data.batches import Batch
from nmtcli.errors import ConfigError
from nmtcli.model.seq2seq import Seq2Seq

PAIRS = [([5, 6, 7, 8, 3], [9, 10, 3]), ([4, 3], [11, 12, 13, 14, 15, 3]), ([9, 9, 3], [3])]


def tiny(joint: bool = True, **options: object) -> Seq2Seq:
    torch.manual_seed(5)
    config = ModelConfig(**{"hidden_size": 8, "embedding_size": 6, "init_scale": 0.5, **options})
    return Seq2Seq(config, source_size=17, target_size=17 if joint else 20, joint=joint).double().eval()


SHAPES = [
    {"cell": cell, "encoder_layers": encoder, "decoder_layers": decoder, "attention": attention, "bidirectional": both}
    for (cell, (encoder, decoder), attention, both) in itertools.product(
        ["lstm", "gru", "rnn"], [(1, 1), (2, 3)], ["general", "dot", "additive"], [True, False]
    )
]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "-".join(str(value) for value in shape.values()))
def test_forward_over_all_positions_equals_as_many_steps(shape: dict[str, object]) -> None:
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


def test_a_sentence_alone_gives_what_it_gives_in_a_batch() -> None:
    model = tiny()
    batch = Batch.of(PAIRS)
    logits_BTV = model.logits(model.decode(*model.encode(batch.source_BS, batch.source_mask_BS), batch.target_input_BT))
    for b, pair in enumerate(PAIRS):
        one = Batch.of([pair])
        alone_BTV = model.logits(model.decode(*model.encode(one.source_BS, one.source_mask_BS), one.target_input_BT))
        torch.testing.assert_close(logits_BTV[b, : len(pair[1])], alone_BTV[0], atol=1e-10, rtol=0)


def test_the_decoder_never_sees_the_token_it_must_say() -> None:
    model = tiny()
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


def test_dropout_acts_in_training_only() -> None:
    model = tiny(dropout=0.5)
    batch = Batch.of(PAIRS)
    encode = lambda: model.encode(batch.source_BS, batch.source_mask_BS)[0].values_BSH  # noqa: E731
    assert torch.equal(encode(), encode())
    model.train()
    assert not torch.equal(encode(), encode())
