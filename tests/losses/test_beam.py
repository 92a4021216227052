"""Beam-search optimisation equals a search over one sentence after the other that scores every prefix anew."""

from typing import Any

import pytest
import torch

import nmtcli.losses.beam as page
from nmtcli.data.batches import Batch
from nmtcli.data.subword import BOS, EOS, PAD
from nmtcli.losses.beam import BeamSearchLoss, Path, bleu_costs, margin_loss, search, shared_masks
from nmtcli.losses.cross_entropy import CrossEntropy
from nmtcli.model.attention import Memory
from nmtcli.model.decoder import State
from nmtcli.model.dropout import Dropout
from nmtcli.model.seq2seq import Seq2Seq
from nmtcli.scoring.sentence import sentence_bleu
from tests.oracles import PAIRS, SHAPES, Shape, assert_same_loss, gradients, tiny

FORBIDDEN = (PAD, BOS)
Pairs = list[tuple[list[int], list[int]]]


def naive(model: Seq2Seq, pairs: Pairs, beam: int, cost: str, margin: float = 1.0) -> tuple[torch.Tensor, int]:
    """The loss, and how many violations; a prefix is a list of ids, its score a forced decoding of it."""
    total, violations = torch.zeros((), dtype=torch.float64), 0
    for source, target in pairs:
        batch = Batch.of([(source, target)])
        memory, state = model.encode(batch.source_BS, batch.source_mask_BS)

        def scores(prefix: list[int], memory: Memory = memory, state: State = state) -> torch.Tensor:
            return model.logits(model.decode(memory, state, torch.tensor([[BOS, *prefix]])))[0, -1]

        live: list[list[int]] = [[]]
        start = 0
        for t, wanted in enumerate(target):
            candidates = []
            for prefix in live:
                for token, score in enumerate(scores(prefix).tolist()):
                    if token not in FORBIDDEN or [*prefix, token] == target[: t + 1]:
                        candidates.append((score, [*prefix, token]))
            candidates.sort(key=lambda one: -one[0])
            reference = target[: t + 1]
            assert any(prefix == reference for _, prefix in candidates)
            rank = 0 if t == len(target) - 1 else beam - 1
            if rank < len(candidates) and candidates[rank][1] == reference:
                rank += 1
            rival = candidates[rank][1] if rank < len(candidates) else None
            live = [prefix for _, prefix in candidates[:beam] if prefix[-1] != EOS]
            if rival is None:
                continue
            ahead = scores(target[:t])[wanted] - scores(rival[:-1])[rival[-1]]
            if float(ahead.detach()) < margin:
                weight = 1.0 if cost == "one" else 1 - sentence_bleu(rival[start:], reference[start:])
                total = total + weight * (margin - ahead)
                violations += 1
                live, start = [reference], t + 1
    return total, violations


def random_pairs(seed: int, sentences: int = 4) -> Pairs:
    torch.manual_seed(seed)
    return [
        ([*torch.randint(4, 17, (3,)).tolist(), EOS], [*torch.randint(4, 17, (length,)).tolist(), EOS])
        for length in torch.randint(0, 7, (sentences,)).tolist()
    ]


def half_trained(pairs: Pairs, updates: int = 25, **shape: Any) -> Seq2Seq:
    """A model that believes some of these references, so that the margin holds now and then."""
    model, loss, batch = tiny(**shape), CrossEntropy(0.0), Batch.of(pairs)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(updates):
        optimizer.zero_grad()
        loss(model, batch).loss.backward()
        optimizer.step()
    return model


@pytest.mark.parametrize("beam", [1, 2, 3, 5])
@pytest.mark.parametrize("cost", ["one", "bleu"])
def test_the_loss_is_that_of_a_search_over_one_prefix_after_the_other(beam: int, cost: str) -> None:
    pairs = random_pairs(beam)
    model = half_trained(pairs)
    loss = BeamSearchLoss(beam=beam, growth=0, cost=cost, forbidden=FORBIDDEN)(model, Batch.of(pairs), 0).loss
    expected, violations = naive(model, pairs, beam, cost)
    assert 0 < violations < sum(len(target) for _, target in pairs)
    assert_same_loss(model, loss, expected)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{shape['arch']}-{shape['cell']}")
def test_the_loss_is_the_naive_one_with_every_cell_and_architecture(shape: Shape) -> None:
    pairs = random_pairs(1)
    model = half_trained(pairs, **shape)
    loss = BeamSearchLoss(beam=3, growth=0, cost="bleu", forbidden=FORBIDDEN)(model, Batch.of(pairs), 0).loss
    expected, violations = naive(model, pairs, 3, "bleu")
    assert 0 < violations < sum(len(target) for _, target in pairs)
    assert_same_loss(model, loss, expected)


@pytest.mark.parametrize("margin", [0.0, 0.3, 1e9])
def test_the_loss_is_the_naive_one_with_other_margins(margin: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "MARGIN", margin)
    pairs = random_pairs(2)
    model = half_trained(pairs)
    loss = BeamSearchLoss(beam=2, growth=0, cost="one", forbidden=FORBIDDEN)(model, Batch.of(pairs), 0).loss
    expected, violations = naive(model, pairs, 2, "one", margin)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-10)
    assert (violations == sum(len(target) for _, target in pairs)) == (margin == 1e9)


def test_the_loss_can_be_minimised_and_is_zero_where_the_margin_holds_everywhere() -> None:
    pairs = random_pairs(3, sentences=2)
    model, batch = half_trained(pairs, updates=50), Batch.of(pairs)
    assert naive(model, pairs, 2, "one")[1] > 0
    loss = BeamSearchLoss(beam=2, growth=0, cost="one", forbidden=FORBIDDEN)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(60):
        value = loss(model, batch, 0).loss
        if not float(value.detach()):
            break
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    assert float(value.detach()) == 0
    assert naive(model, pairs, 2, "one")[1] == 0
    assert all(gradient.eq(0).all() for gradient in gradients(model, value))


def test_finite_differences_agree_with_the_decisions_of_the_search_frozen() -> None:
    pairs = random_pairs(4)
    model, batch = half_trained(pairs), Batch.of(pairs)
    drops = shared_masks(model.dropout, False)

    def loss(path: Path | None = None) -> tuple[torch.Tensor, Path]:
        memory, state = model.encode(batch.source_BS, batch.source_mask_BS)
        if path is None:
            with torch.no_grad():
                path = search(model, memory, state, batch, 3, FORBIDDEN, drops)
        return margin_loss(model, memory, state, batch, path, bleu_costs(path, batch), drops), path

    value, path = loss()
    assert 0 < int(path.violated_BT.sum()) < batch.target_tokens
    analytic = gradients(model, value)
    torch.manual_seed(1)
    directions = [torch.randn_like(parameter) for parameter in model.parameters()]
    slope = sum(float((one * other).sum()) for one, other in zip(analytic, directions, strict=True))
    ends = []
    for step in (1e-6, -2e-6):
        with torch.no_grad():
            for parameter, direction in zip(model.parameters(), directions, strict=True):
                parameter.add_(step * direction)
            ends.append(float(loss(path)[0]))
    assert (ends[0] - ends[1]) / 2e-6 == pytest.approx(slope, rel=1e-5)


def test_one_mask_serves_reference_rival_and_beam_in_both_passes() -> None:
    """A rival that says what the reference says has the same scores, dropout or not; drawn apart it would not."""
    model, batch = tiny(dropout=0.5).train(), Batch.of(PAIRS)
    memory, state = model.encode(batch.source_BS, batch.source_mask_BS)
    mask_BT = batch.target_mask_BT
    path = Path(batch.target_output_BT, torch.zeros_like(mask_BT), mask_BT)
    drops = shared_masks(model.dropout, True)
    loss = margin_loss(model, memory, state, batch, path, torch.ones(mask_BT.shape, dtype=torch.float64), drops)
    assert float(loss.detach()) == pytest.approx(batch.target_tokens)


def test_the_margin_of_the_second_pass_is_that_of_the_search_under_dropout() -> None:
    """At a violation the margin of the second pass is positive, as it was for the search; with other masks it need not
    be."""
    for seed in range(3):
        torch.manual_seed(seed)
        model, batch = tiny(dropout=0.5).train(), Batch.of(random_pairs(seed))
        memory, state = model.encode(batch.source_BS, batch.source_mask_BS)
        drops = shared_masks(model.dropout, True)
        with torch.no_grad():
            path = search(model, memory, state, batch, 2, FORBIDDEN, drops)
        for b, t in path.violated_BT.nonzero().tolist():
            cost_BT = torch.zeros(path.violated_BT.shape, dtype=torch.float64)
            cost_BT[b, t] = 1.0
            assert float(margin_loss(model, memory, state, batch, path, cost_BT, drops).detach()) > 0


@pytest.mark.parametrize("variational", [True, False])
def test_masks_are_kept_by_place_and_step(variational: bool) -> None:
    drops = shared_masks(Dropout(0.5, variational), True)
    ones_BKE = torch.ones(2, 3, 64)
    first, again = drops(0)("top", ones_BKE), drops(0)("top", ones_BKE[:, :1])
    assert torch.equal(first[:, :1], again)
    assert torch.equal(first[:, 0], first[:, 2])
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(drops(0)("readout", ones_BKE), first)
    assert torch.equal(drops(1)("top", ones_BKE), first) == variational
    assert torch.equal(shared_masks(Dropout(0.5, variational), False)(0)("top", ones_BKE), ones_BKE)


def test_the_beam_grows() -> None:
    loss = BeamSearchLoss(beam=5, growth=100, cost="one", forbidden=())
    assert [loss.beam_at(update) for update in (0, 99, 100, 250, 300, 10**6)] == [2, 2, 3, 4, 5, 5]
    assert BeamSearchLoss(beam=5, growth=0, cost="one", forbidden=()).beam_at(0) == 5


def test_a_forbidden_token_is_no_rival_but_may_be_the_references() -> None:
    model, batch = tiny(), Batch.of([([5, 6, 3], [9, 10, 11, 3])])
    memory, state = model.encode(batch.source_BS, batch.source_mask_BS)
    drops = shared_masks(model.dropout, False)
    forbidden = tuple(token for token in range(17) if token not in (7, 8, EOS))  # 9, 10 and 11 among them
    with torch.no_grad():
        path = search(model, memory, state, batch, 2, forbidden, drops)
    rivals = path.rival_BT[path.violated_BT]
    assert len(rivals)
    assert all(token in (7, 8, EOS) for token in rivals.tolist())
