"""The greedy-search loss equals a naive loop where it searches, and cross-entropy where it does not."""

import math
from collections.abc import Callable

import pytest
import torch
from torch.nn import functional as F

from nmtcli.data.batches import Batch
from nmtcli.data.subword import BOS
from nmtcli.losses.cross_entropy import CrossEntropy
from nmtcli.losses.greedy import GreedySearchLoss, decode_in_passes, decode_own_tokens, teacher_forcing_at
from nmtcli.model.seq2seq import Seq2Seq
from tests.oracles import PAIRS, SHAPES, Shape, assert_same_loss, gradients, tiny


def naive(model: Seq2Seq, forced: list[list[bool]]) -> torch.Tensor:
    """Sentence by sentence, step by step, over all logits."""
    total = torch.zeros((), dtype=torch.float64)
    for (source, target), forced_T in zip(PAIRS, forced, strict=True):
        batch = Batch.of([(source, target)])
        memory, state = model.encode(batch.source_BS, batch.source_mask_BS)
        token, said = BOS, -1
        for position, wanted in enumerate(target):
            if position:
                token = target[position - 1] if forced_T[position] else said
            logits_11V, _, state = model.step(memory, state, torch.tensor([[token]]))
            total = total + F.cross_entropy(logits_11V[0], torch.tensor([wanted]), label_smoothing=0.1)
            said = int(logits_11V.argmax())
    return total


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{shape['arch']}-{shape['cell']}")
def test_without_the_reference_it_is_a_naive_loop_over_its_own_choices(shape: Shape) -> None:
    model = tiny(**shape)
    loss = GreedySearchLoss(0.1, passes=0, teacher_forcing=0.0)(model, Batch.of(PAIRS), 0).loss
    assert_same_loss(model, loss, naive(model, [[False] * 6] * 3))


def test_where_some_positions_read_the_reference_it_is_the_naive_loop_that_does() -> None:
    model, batch = tiny(), Batch.of(PAIRS)
    forced_BT = torch.rand(batch.target_input_BT.shape) < 0.5
    memory, state = model.encode(batch.source_BS, batch.source_mask_BS)
    readout_BTE = decode_own_tokens(model, memory, state, batch.target_input_BT, forced_BT)
    logits_NV = model.logits(readout_BTE)[batch.target_mask_BT]
    targets_N = batch.target_output_BT[batch.target_mask_BT]
    loss = F.cross_entropy(logits_NV, targets_N, reduction="sum", label_smoothing=0.1)
    assert_same_loss(model, loss, naive(model, forced_BT.tolist()))


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{shape['arch']}-{shape['cell']}")
def test_exact_with_the_reference_it_is_cross_entropy_under_the_same_masks(shape: Shape) -> None:
    """Masks of a sentence are drawn once, in the same order in both."""
    model = tiny(**shape, dropout=0.4, variational_dropout=True).train()
    losses = []
    for loss in (GreedySearchLoss(0.1, passes=0, teacher_forcing=1.0), CrossEntropy(0.1)):
        torch.manual_seed(3)
        losses.append(loss(model, Batch.of(PAIRS), 0).loss)
    assert_same_loss(model, *losses)


@pytest.mark.parametrize("variational", [True, False])
def test_in_passes_with_the_reference_it_is_cross_entropy_to_every_bit(variational: bool) -> None:
    model = tiny(dropout=0.4, variational_dropout=variational).float().train()
    results = []
    for loss in (GreedySearchLoss(0.1, passes=2, teacher_forcing=1.0), CrossEntropy(0.1)):
        torch.manual_seed(3)
        sums = loss(model, Batch.of(PAIRS), 0)
        results.append([sums.loss, sums.nll, *gradients(model, sums.loss)])
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


def test_as_many_passes_as_positions_are_the_exact_form() -> None:
    model, batch = tiny(), Batch.of(PAIRS)
    exact = GreedySearchLoss(0.1, passes=0, teacher_forcing=0.0)(model, batch, 0)
    longest = batch.target_input_BT.shape[1]
    assert_same_loss(
        model, GreedySearchLoss(0.1, passes=longest, teacher_forcing=0.0)(model, batch, 0).loss, exact.loss
    )
    two = GreedySearchLoss(0.1, passes=2, teacher_forcing=0.0)(model, batch, 0)
    assert abs(float(two.loss.detach()) - float(exact.loss.detach())) > 1e-6


def test_the_first_pass_has_neither_dropout_nor_gradient_and_leaves_the_model_training() -> None:
    model, batch = tiny(dropout=0.5).train(), Batch.of(PAIRS)
    memory, state = model.encode(batch.source_BS, batch.source_mask_BS)
    forced_BT = torch.zeros(batch.target_input_BT.shape, dtype=torch.bool)
    before = torch.get_rng_state()
    with torch.no_grad():
        decode_in_passes(model, memory, state, batch.target_input_BT, forced_BT, 3)
    after = torch.get_rng_state()
    torch.set_rng_state(before)
    with torch.no_grad():
        model.decode(memory, state, batch.target_input_BT)
    assert torch.equal(torch.get_rng_state(), after)  # one pass has drawn masks
    assert model.training


@pytest.mark.parametrize("passes", [0, 3])
def test_what_no_search_says_is_not_read(passes: int) -> None:
    model, batch = tiny(), Batch.of(PAIRS)
    with torch.no_grad():
        model.projection_bias_V[1] = 100.0  # <unk> is what it would say
    read: list[torch.Tensor] = []

    def noting(inner: Callable[..., object]) -> Callable[..., object]:
        def noted(memory: object, state: object, tokens_BT: torch.Tensor, *others: object) -> object:
            read.append(tokens_BT)
            return inner(memory, state, tokens_BT, *others)

        return noted

    model.advance, model.decode = noting(model.advance), noting(model.decode)  # type: ignore[method-assign,assignment]
    for forbidden in ((), (0, 1, 2)):
        read.clear()
        GreedySearchLoss(0.0, passes=passes, teacher_forcing=0.0, forbidden=forbidden)(model, batch, 0)
        assert any(tokens.eq(1).any() for tokens in read) == (forbidden == ())


def test_the_reference_is_read_as_often_as_asked_for() -> None:
    model = tiny()
    read: list[torch.Tensor] = []
    decode = model.decode

    def noted(memory: object, state: object, target_BT: torch.Tensor) -> torch.Tensor:
        read.append(target_BT)
        return decode(memory, state, target_BT)  # type: ignore[arg-type]

    model.decode = noted  # type: ignore[method-assign]
    batch = Batch.of([([5, 6, 3], [9] * 60 + [3])] * 40)
    GreedySearchLoss(0.0, passes=2, teacher_forcing=0.75)(model, batch, 0)
    first_BT, second_BT = read
    assert torch.equal(first_BT, batch.target_input_BT)
    own = float((second_BT != first_BT).float().mean())
    assert 0.15 < own < 0.3  # of those a few choices are the reference's token anyhow


@pytest.mark.parametrize("decay", ["linear", "exponential", "inverse-sigmoid"])
def test_a_schedule_falls_from_near_1_over_a_half_to_its_lowest(decay: str) -> None:
    def at(update: int) -> float:
        return teacher_forcing_at(update, lowest=0.1, decay=decay, half=400)

    values = [at(update) for update in range(0, 5000, 50)]
    assert values == sorted(values, reverse=True)
    assert values[0] > 0.98
    assert at(400) == pytest.approx(0.5)
    assert at(10**9) == 0.1
    assert teacher_forcing_at(7, lowest=0.3, decay="none", half=1) == 0.3


def test_schedules_are_those_of_the_paper() -> None:
    k = 0.5 ** (1 / 400)
    assert teacher_forcing_at(123, lowest=0.0, decay="exponential", half=400) == pytest.approx(k**123)
    assert teacher_forcing_at(123, lowest=0.0, decay="linear", half=400) == pytest.approx(1 - 123 / 800)
    k = 50.0  # of which a half is at k log k
    half = round(k * math.log(k))
    value = teacher_forcing_at(123, lowest=0.0, decay="inverse-sigmoid", half=half)
    assert value == pytest.approx(k / (k + math.exp(123 / k)), rel=1e-2)
