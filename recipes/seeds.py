"""BLEU of systems trained with several seeds, and a paired bootstrap between them, for the experiments' reports."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from sacrebleu import BLEU

RESAMPLINGS = 1000

Array = npt.NDArray[np.float64]


def lines_of(path: Path) -> list[str]:
    """Read the lines of a text file; only "\\n" ends a line."""
    return path.read_text(encoding="utf-8").removesuffix("\n").split("\n")


def sentence_statistics(hypotheses: Sequence[str], references: Sequence[str], tokenizer: str) -> Array:
    """Count the statistics of corpus BLEU: for each sentence 4 matched n-grams, 4 n-grams, and two lengths."""
    metric = BLEU(tokenize=tokenizer, force=True, effective_order=True)  # effective order does not change the counts
    rows = []
    for hypothesis, reference in zip(hypotheses, references, strict=True):
        score = metric.sentence_score(hypothesis, [reference])
        rows.append([*score.counts, *score.totals, score.sys_len, score.ref_len])
    return np.array(rows, dtype=np.float64)


def bleu_of(sums: Array) -> float:
    """Compute corpus BLEU from summed statistics."""
    correct, total = sums[:4].astype(int).tolist(), sums[4:8].astype(int).tolist()
    return float(BLEU.compute_bleu(correct, total, int(sums[8]), int(sums[9]), smooth_method="exp").score)


def mean_bleu(statistics: Array, chosen: npt.NDArray[np.int64] | slice = slice(None)) -> float:
    """Compute corpus BLEU of the chosen sentences, averaged over the seeds: `statistics[seed, sentence]`."""
    return float(np.mean([bleu_of(one[chosen].sum(axis=0)) for one in statistics]))


def paired_bootstrap(one: Array, other: Array, resamplings: int = RESAMPLINGS) -> float:
    """Return the p-value of the difference between two systems' BLEU, each averaged over its seeds.

    Each resample draws the same sentences for every seed of both systems. So the p-value is about other test sets with
    the same trained models; the standard deviation over the seeds is about other trainings.

    Args:
        one, other: statistics[seed, sentence].
        resamplings: B, the number of resamples.
    Returns:
        (k + 1) / (B + 1), where k counts the resamples whose absolute difference exceeds the mean of the absolute
        differences by more than the measured one. With one seed this is sacreBLEU's value.
    Source:
        Koehn 2004; Riezler and Maxwell 2005 for the shift to the mean.
    """
    rng = np.random.default_rng(12345)
    sentences = one.shape[1]
    measured = mean_bleu(one) - mean_bleu(other)
    differences = []
    for _ in range(resamplings):
        chosen = rng.integers(sentences, size=(sentences,))
        differences.append(mean_bleu(one, chosen) - mean_bleu(other, chosen))
    sizes = np.abs(differences)
    k = (sizes - sizes.mean() > abs(measured)).sum()
    return float((k + 1) / (resamplings + 1))


def spread(values: Sequence[float]) -> str:
    """Format the mean and, for several values, the standard deviation.

    >>> spread([30.0, 32.0]), spread([30.0])
    ('31.00 ± 1.41', '30.00')
    """
    mean = f"{np.mean(values):.2f}"
    return f"{mean} ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else mean
