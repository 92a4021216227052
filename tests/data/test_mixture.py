"""An epoch of several corpora has the proportions that were asked for, and no pair is forgotten."""

from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nmtcli.data.mixture import Mixture, mixture_of
from nmtcli.errors import ConfigError

CORPORA = [
    {"name": "corpus/news", "pairs": 40},
    {"name": "subs.tsv.gz", "pairs": 100},
    {"name": "old/subs", "pairs": 0},
]


def seen(mixture: Mixture, epoch: int) -> list[int]:
    pairs: list[int] = mixture.pairs(np.arange(mixture.places), epoch).tolist()
    return pairs


@given(
    st.lists(st.tuples(st.integers(1, 12), st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.0])), min_size=1, max_size=4).filter(
        lambda corpora: any(weight for _, weight in corpora)
    )
)
def test_an_epoch_has_the_proportions_asked_for(corpora: list[tuple[int, float]]) -> None:
    sizes, weights = [size for size, _ in corpora], [weight for _, weight in corpora]
    least = min(Fraction(weight) / size for size, weight in corpora if weight)
    expected = [round(float(Fraction(weight) / least)) for weight in weights]
    mixture = Mixture(sizes, weights)
    assert mixture.places == sum(expected)
    corpus_of = [number for number, size in enumerate(sizes) for _ in range(size)]
    in_the_long_run: Counter[int] = Counter()
    for epoch in range(3):
        pairs = seen(mixture, epoch)
        in_the_long_run.update(pairs)
        counts = Counter(corpus_of[pair] for pair in pairs)
        assert [counts[number] for number in range(len(sizes))] == expected
    for number, weight in enumerate(weights):
        often = [in_the_long_run[pair] for pair, corpus in enumerate(corpus_of) if corpus == number]
        assert max(often) - min(often) <= (1 if weight else 0)  # each pair as often as the others of its corpus
        assert min(often) >= (3 if weight else 0)


def test_one_corpus_is_seen_once_an_epoch_in_its_own_order() -> None:
    for epoch in range(3):
        assert seen(Mixture([7], [1]), epoch) == list(range(7))


def test_where_an_epoch_ends_the_next_one_goes_on() -> None:
    mixture = Mixture([3, 4], [1, 1])
    assert [pair for pair in seen(mixture, 0) if pair < 3] == [0, 1, 2, 0]
    assert [pair for pair in seen(mixture, 1) if pair < 3] == [1, 2, 0, 1]


@pytest.mark.parametrize("mix", ["news=3,subs.tsv.gz=1,old/subs=0", " corpus/news=6 , old/subs=0, subs.tsv.gz=2"])
def test_corpora_are_called_by_their_prefix_or_its_last_part(mix: str) -> None:
    mixture = mixture_of(mix, CORPORA)
    counts = Counter(pair < 40 for pair in seen(mixture, 0))
    assert counts == {True: 300, False: 100}


@pytest.mark.parametrize(
    ("mix", "said"),
    [
        ("new=1", "no training text of the data directory is called `new`. It has news, subs.tsv.gz, old/subs."),
        ("subs=1", "2 training texts of the data directory is called `subs`"),
        ("news", "no training text of the data directory is called ``"),
        ("news=many", "the weight of news is `many`. Give a number, such as 2 or 0.5."),
        ("news=-1", "the weight of news is -1. Give 0 or more."),
        ("news=nan", "the weight of news is nan. Give 0 or more."),
        ("news=1", "--mix gives no weight for subs.tsv.gz, old/subs. Name all training texts; 0 leaves one out."),
        ("news=1,subs.tsv.gz=1,old/subs=1", "old/subs has no pairs after cleaning. Give subs=0."),
        ("news=0,subs.tsv.gz=0,old/subs=0", "--mix leaves out all training texts."),
    ],
)
def test_a_mix_that_cannot_be_is_refused(mix: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        mixture_of(mix, CORPORA)
    assert said in str(caught.value)
