"""Batches: every pair once an epoch, within the budget, in an order that seed and epoch decide, and the same tensors as
a loop over the pairs would fill."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import nmtcli.data.batches as page
from nmtcli.data.batches import WINDOW, Batch, TrainingBatches, batches_by_length, plan
from nmtcli.data.corpus import Corpus, DataDirectory
from nmtcli.data.subword import BOS, EOS, PAD
from tests.oracles import ids_of

lengths = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), max_size=200)
budgets = st.integers(1, 300)


def columns(pairs: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([s for s, _ in pairs], dtype=np.int64), np.array([t for _, t in pairs], dtype=np.int64)


def even(length: int) -> int:
    """As long as a side of a batch is."""
    return length + length % 2


def realistic_lengths(pairs: int, median: int = 20, spread: float = 0.6) -> tuple[np.ndarray, np.ndarray]:
    """Source and target lengths as corpora have them: log-normal and correlated."""
    random = np.random.default_rng(7)
    source = np.clip(median * random.lognormal(0.0, spread, pairs), 2, 250)
    target = np.clip(source * random.lognormal(0.05, 0.2, pairs), 2, 250)
    return source.astype(np.int64), target.astype(np.int64)


@given(lengths, budgets, st.integers(0, 5))
def test_every_pair_is_in_an_epoch_exactly_once(pairs: list[tuple[int, int]], budget: int, epoch: int) -> None:
    batches = plan(*columns(pairs), batch_tokens=budget, seed=1, epoch=epoch)
    assert sorted(itertools.chain.from_iterable(batch.tolist() for batch in batches)) == list(range(len(pairs)))
    assert all(len(batch) for batch in batches)


@given(lengths, budgets)
def test_a_batch_is_within_the_budget_unless_it_is_a_single_long_pair(
    pairs: list[tuple[int, int]], budget: int
) -> None:
    for batch in plan(*columns(pairs), batch_tokens=budget, seed=1, epoch=0):
        longest = even(max(max(pairs[number]) for number in batch))
        assert len(batch) * longest <= budget or len(batch) == 1


@given(lengths, budgets)
def test_no_batch_could_take_its_neighbour_in_the_order_of_lengths(pairs: list[tuple[int, int]], budget: int) -> None:
    """Batches are not smaller than they must be: cut in order, each one is full."""
    ids = [([1] * source, [1] * target) for source, target in pairs]
    batches = batches_by_length(ids, budget)
    for batch, following in itertools.pairwise(batches):
        longest = even(max(max(pairs[number]) for number in [*batch, following[0]]))
        assert (len(batch) + 1) * longest > budget


@given(lengths, budgets)
def test_training_batches_have_a_multiple_of_eight_sentences(pairs: list[tuple[int, int]], budget: int) -> None:
    sizes = [len(batch) for batch in plan(*columns(pairs), batch_tokens=budget, seed=1, epoch=0)]
    assert sum(size >= 16 and size % 8 != 0 for size in sizes) <= 1  # the last one, before they are shuffled


def test_few_shapes_take_no_more_padding() -> None:
    """Against an order by target and source lengths, and batches as full as can be, each as long as it must be."""
    source, target = realistic_lengths(29_000, 16, 0.3)
    shapes, plain_shapes = set(), set()
    positions = plain_positions = 0
    for batch in plan(source, target, batch_tokens=2048, seed=1, epoch=0):
        shape = (len(batch), even(int(source[batch].max())), even(int(target[batch].max())))
        shapes.add(shape)
        positions += shape[0] * (shape[1] + shape[2])
    order = np.lexsort((source, target))
    for batch in page.cut(order, np.maximum(source, target), 2048):
        shape = (len(batch), int(source[batch].max()), int(target[batch].max()))
        plain_shapes.add(shape)
        plain_positions += shape[0] * (shape[1] + shape[2])
    assert len(shapes) < 0.7 * len(plain_shapes)
    assert positions < 1.01 * plain_positions


@pytest.mark.parametrize(("seed", "epoch"), [(1, 0), (1, 1), (2, 0), (0, 17)])
def test_the_plan_is_a_function_of_seed_and_epoch(seed: int, epoch: int) -> None:
    source, target = realistic_lengths(2000)

    def planned(seed: int, epoch: int) -> list[list[int]]:
        return [batch.tolist() for batch in plan(source, target, batch_tokens=512, seed=seed, epoch=epoch)]

    assert planned(seed, epoch) == planned(seed, epoch)
    assert planned(seed, epoch) != planned(seed, epoch + 1)
    assert planned(seed, epoch) != planned(seed + 1, epoch)


def numpy_state() -> list[int]:
    state = np.random.get_state()
    assert isinstance(state, tuple)
    return [int(number) for number in state[1]]


def test_the_plan_does_not_touch_the_random_numbers_of_others() -> None:
    np.random.seed(5)
    torch_state, before = torch.get_rng_state(), numpy_state()
    plan(*realistic_lengths(500), batch_tokens=512, seed=1, epoch=0)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert numpy_state() == before


@pytest.mark.parametrize(
    ("pairs", "budget", "median", "spread"),
    [
        pytest.param(29_000, 2048, 16, 0.3, id="captions"),
        pytest.param(WINDOW, 4096, 20, 0.6, id="a large corpus with a long tail"),
    ],
)
def test_less_than_five_per_cent_of_a_batch_is_padding_on_realistic_lengths(
    pairs: int, budget: int, median: int, spread: float
) -> None:
    source, target = realistic_lengths(pairs, median, spread)
    padded_positions = 0
    for batch in plan(source, target, batch_tokens=budget, seed=1, epoch=0):
        padded_positions += len(batch) * (even(int(source[batch].max())) + even(int(target[batch].max())))
    assert 1 - (source.sum() + target.sum()) / padded_positions < 0.05


def test_short_and_long_batches_come_in_no_order() -> None:
    source, target = realistic_lengths(20_000)
    means = [target[batch].mean() for batch in plan(source, target, batch_tokens=2048, seed=1, epoch=0)]
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.2


sentences = st.lists(st.integers(4, 99), max_size=6).map(lambda words: [*words, EOS])


@given(st.lists(st.tuples(sentences, sentences), min_size=1, max_size=6))
def test_a_batch_is_what_a_loop_over_its_pairs_fills(pairs: list[tuple[list[int], list[int]]]) -> None:
    batch = Batch.of(pairs)
    longest_source = even(max(len(source) for source, _ in pairs))
    longest_target = even(max(len(target) for _, target in pairs))
    assert batch.source_BS.shape == batch.source_mask_BS.shape == (len(pairs), longest_source)
    assert batch.target_output_BT.shape == batch.target_mask_BT.shape == (len(pairs), longest_target)
    for row, (source, target) in enumerate(pairs):
        for position in range(longest_source):
            there = position < len(source)
            assert batch.source_BS[row, position] == (source[position] if there else PAD)
            assert batch.source_mask_BS[row, position] == there
        for position in range(longest_target):
            there = position < len(target)
            assert batch.target_output_BT[row, position] == (target[position] if there else PAD)
            assert batch.target_input_BT[row, position] == ([BOS, *target][position] if there else PAD)
            assert batch.target_mask_BT[row, position] == there
    assert batch.source_tokens == sum(len(source) for source, _ in pairs)
    assert batch.target_tokens == sum(len(target) for _, target in pairs)


def training_batches(data: Path, **options: object) -> TrainingBatches:
    directory = DataDirectory.open(data)
    chosen: dict[str, Any] = {
        "batch_tokens": 256,
        "seed": 1,
        "subword_alpha": 0.0,
        "workers": 0,
        "pin_memory": False,
        **options,
    }
    return TrainingBatches(directory.train, directory.source_subword, directory.target_subword, **chosen)


def epoch_of(batches: TrainingBatches, epoch: int, start: int = 0) -> list[Batch]:
    """The batches of one epoch from a start on."""
    stream = batches.stream(epoch, start)
    return list(itertools.islice(stream, len(batches.plan(epoch)) - start))


def assert_same(ours: list[Batch], theirs: list[Batch]) -> None:
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        for name, value in vars(one).items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(getattr(other, name)))


@pytest.mark.parametrize("alpha", [0.0, 0.3])
@pytest.mark.parametrize("workers", [0, 1])
def test_an_epoch_that_starts_at_a_batch_is_the_tail_of_the_whole(data: Path, alpha: float, workers: int) -> None:
    batches = training_batches(data, subword_alpha=alpha, workers=workers)
    whole = epoch_of(batches, 2)
    assert len(whole) > 7
    assert_same(epoch_of(batches, 2, 5), whole[5:])


@pytest.mark.parametrize("batch_tokens", [512, 100_000], ids=["a few batches", "one batch an epoch"])
@pytest.mark.parametrize("workers", [0, 1])
def test_one_epoch_follows_the_other(data: Path, batch_tokens: int, workers: int) -> None:
    batches = training_batches(data, subword_alpha=0.3, workers=workers, batch_tokens=batch_tokens)
    counts = [len(batches.plan(epoch)) for epoch in range(1, 5)]
    found = list(itertools.islice(batches.stream(1, 0), sum(counts)))  # with workers, the loader is epochs ahead
    alone = training_batches(data, subword_alpha=0.3, batch_tokens=batch_tokens)
    assert_same(found, list(itertools.chain.from_iterable(epoch_of(alone, epoch) for epoch in range(1, 5))))
    assert [len(batches.plan(epoch)) for epoch in range(1, 5)] == counts


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """600 pairs are five blocks, the last one smaller, of eight places each."""
    monkeypatch.setattr(page, "BLOCK", 128)
    monkeypatch.setattr(page, "NEIGHBOURS", 16)


@pytest.mark.usefixtures("small_blocks")
def test_each_epoch_draws_blocks_from_places_all_over_the_corpus(data: Path) -> None:
    batches = training_batches(data)
    assert batches.blocks == 5
    epochs = [
        [np.concatenate(batches.plan(epoch, block)).tolist() for block in range(batches.blocks)] for epoch in range(2)
    ]
    for blocks in epochs:
        assert sorted(itertools.chain.from_iterable(blocks)) == list(range(600))  # each pair exactly once
        for block in blocks:
            places = {number // 16 for number in block}
            assert len(places) in (8, 6)  # the corpus ends with half of a place
            assert max(places) - min(places) > 10
            assert block != sorted(block)
    assert sorted(epochs[0][0]) != sorted(epochs[1][0])
    corpus = Corpus(data)
    lengths = [corpus.lengths(np.array(block)) for block in epochs[0]]
    assert sum(int(source.sum()) for source, _ in lengths) == corpus.lengths(np.arange(len(corpus)))[0].sum()


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("workers", [0, 1])
def test_a_stream_goes_from_block_to_block_and_starts_in_any(data: Path, workers: int) -> None:
    batches = training_batches(data, workers=workers)
    counts = [len(batches.plan(epoch, block)) for epoch in (0, 1) for block in range(5)]
    whole = list(itertools.islice(training_batches(data, workers=workers).stream(0, 0), sum(counts)))
    start = sum(counts[:3]) + 2  # batch 2 of block 3
    tail = itertools.islice(training_batches(data, workers=workers).stream(0, 2, 3), sum(counts) - start)
    assert_same(list(tail), whole[start:])
    of_epoch = whole[: sum(counts[:5])]
    corpus = Corpus(data)
    assert sum(batch.target_tokens for batch in of_epoch) == corpus.lengths(np.arange(len(corpus)))[1].sum()


def test_without_sampling_an_epoch_holds_just_the_corpus(data: Path) -> None:
    found = []
    for batch in epoch_of(training_batches(data), 0):
        for row in range(len(batch.source_BS)):
            source = batch.source_BS[row][batch.source_mask_BS[row]].tolist()
            found.append((source, batch.target_output_BT[row][batch.target_mask_BT[row]].tolist()))
    assert sorted(found) == sorted(ids_of(Corpus(data)))


@pytest.mark.parametrize("workers", [1, 2])
def test_what_is_sampled_does_not_depend_on_the_workers(data: Path, workers: int) -> None:
    alone = epoch_of(training_batches(data, subword_alpha=0.1), 3)
    assert_same(epoch_of(training_batches(data, subword_alpha=0.1, workers=workers), 3), alone)


def sampled_pairs(data: Path, **options: object) -> dict[int, tuple[list[int], list[int]]]:
    """By pair number, the ids that an epoch gives it."""
    epoch = int(str(options.pop("epoch", 0)))
    batches = training_batches(data, **{"subword_alpha": 0.1, **options})
    found = {}
    for numbers, batch in zip(batches.plan(epoch), epoch_of(batches, epoch), strict=True):
        for row, number in enumerate(numbers.tolist()):
            source = batch.source_BS[row][batch.source_mask_BS[row]].tolist()
            found[number] = source, batch.target_output_BT[row][batch.target_mask_BT[row]].tolist()
    return found


def test_what_is_sampled_depends_on_seed_epoch_and_pair_and_not_on_the_batch(data: Path) -> None:
    first = sampled_pairs(data)
    assert sampled_pairs(data) == first
    assert sampled_pairs(data, batch_tokens=100) == first
    for other in (sampled_pairs(data, epoch=1), sampled_pairs(data, seed=2)):
        assert sum(other[number] != first[number] for number in first) > len(first) / 10


def test_what_is_sampled_says_the_same_text(data: Path) -> None:
    directory = DataDirectory.open(data)
    corpus, subword = directory.train, directory.target_subword
    sampled = sampled_pairs(data)
    assert any(target != corpus[number][1].tolist() for number, (_, target) in sampled.items())
    for number, (source, target) in sampled.items():
        assert subword.decode(source) == subword.decode(corpus[number][0].tolist())
        assert subword.decode(target) == subword.decode(corpus[number][1].tolist())
        assert source[-1] == target[-1] == EOS


@pytest.mark.parametrize("workers", [0, 1])
def test_loading_leaves_the_random_numbers_of_dropout_alone(data: Path, workers: int) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    epoch_of(training_batches(data, subword_alpha=0.1, workers=workers), 0, 8)
    assert torch.equal(torch.get_rng_state(), before)
