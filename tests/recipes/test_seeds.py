"""BLEU of several seeds: summed statistics give corpus BLEU, and the bootstrap agrees with sacreBLEU's."""

from typing import Any

import numpy as np
import pytest

from nmtcli.scoring.metrics import bleu, compare
from tests.recipes.scripts import load

seeds: Any = load("seeds.py")

HYPOTHESES = ["a cat sat on the mat .", "the dog ran home", "a man and a woman dance", "two birds fly"] * 6
REFERENCES = ["the cat sat on the mat .", "the dog ran away home", "a man and a woman danced", "three birds sing"] * 6
BETTER = ["the cat sat on the mat .", "the dog ran home", "a man and a woman danced", "two birds sing"] * 6


def test_summed_statistics_give_corpus_bleu() -> None:
    statistics = seeds.sentence_statistics(HYPOTHESES, REFERENCES, "13a")
    assert seeds.bleu_of(statistics.sum(axis=0)) == pytest.approx(bleu(HYPOTHESES, [REFERENCES]).value)
    chosen = np.array([0, 0, 3, 5])
    texts = [[lines[number] for number in chosen] for lines in (HYPOTHESES, REFERENCES)]
    assert seeds.mean_bleu(statistics[None], chosen) == pytest.approx(bleu(texts[0], [texts[1]]).value)


def test_the_paired_bootstrap_agrees_with_sacrebleu_where_there_is_one_seed() -> None:
    random = np.random.default_rng(3)
    words = ["the", "a", "cat", "dog", "man", "woman", "sat", "ran", "home", "away", "on", "mat"]
    references = [" ".join(random.choice(words, 9)) for _ in range(80)]

    def noisy(share: float) -> list[str]:
        return [
            " ".join(str(random.choice(words)) if random.random() < share else word for word in line.split())
            for line in references
        ]

    for shares in ((0.2, 0.2), (0.2, 0.25), (0.1, 0.3)):
        systems = {name: noisy(share) for name, share in zip(("one", "other"), shares, strict=True)}
        theirs = compare(systems, [references], with_ter=False)["other"][0].p_value
        one, other = (seeds.sentence_statistics(lines, references, "13a")[None] for lines in systems.values())
        assert seeds.paired_bootstrap(other, one) == pytest.approx(theirs, abs=0.06)


def test_several_seeds_are_averaged_and_resampled_together() -> None:
    one, other = (seeds.sentence_statistics(lines, REFERENCES, "13a") for lines in (BETTER, HYPOTHESES))
    values = [bleu(lines, [REFERENCES]).value for lines in (BETTER, HYPOTHESES)]
    assert seeds.mean_bleu(np.stack([one, other])) == pytest.approx(sum(values) / 2)
    alone = seeds.paired_bootstrap(one[None], other[None], 200)
    assert seeds.paired_bootstrap(np.stack([one, one]), np.stack([other, other]), 200) == alone


def test_a_spread_is_mean_and_deviation() -> None:
    assert seeds.spread([30.0, 32.0]) == "31.00 ± 1.41"
    assert seeds.spread([30.0]) == "30.00"
