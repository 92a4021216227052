"""Sentence-level BLEU and chrF in [0, 1], used as rewards by losses that train by search; not for reporting."""

import math
from collections import Counter
from collections.abc import Hashable, Sequence

from sacrebleu import BLEU, CHRF

from nmtcli.scoring.metrics import tokenizer_for

ORDER = 4


def sentence_bleu(hypothesis: Sequence[Hashable], reference: Sequence[Hashable]) -> float:
    """Compute BLEU of one sentence, with 1 added to the counts of all n-grams except unigrams.

    Args:
        hypothesis, reference: tokens of the two sentences.
    Returns:
        a number in [0, 1]: sacreBLEU's sentence BLEU with add-k smoothing, k = 1, divided by 100.
    Source:
        Lin and Och 2004 for the smoothing.

    >>> sentence_bleu("a b c d".split(), "a b c d".split()), sentence_bleu(["x"], ["a"])
    (1.0, 0.0)
    """
    log_sum = 0.0
    for n in range(1, ORDER + 1):
        found, known = (
            Counter(tuple(text[start : start + n]) for start in range(len(text) - n + 1))
            for text in (hypothesis, reference)
        )
        extra = int(n > 1)
        correct = sum(min(count, known[gram]) for gram, count in found.items()) + extra
        total = max(len(hypothesis) - n + 1, 0) + extra
        if not correct or not total:
            return 0.0
        log_sum += math.log(correct / total)
    brevity = min(0.0, 1 - len(reference) / len(hypothesis))
    return math.exp(brevity + log_sum / ORDER)


class Reward:
    """Function that returns the rewards of translations: sentence BLEU or chrF of detokenised text, from 0 to 1.

    Args:
        metric: "bleu" or "chrf".
        target_lang: target language, which determines BLEU's tokenizer.
    """

    def __init__(self, metric: str, target_lang: str) -> None:
        self._tokenize = BLEU(tokenize=tokenizer_for(target_lang), force=True).tokenizer if metric == "bleu" else None
        self._chrf = CHRF()

    def __call__(self, hypotheses: Sequence[str], reference: str) -> list[float]:
        """Return the reward of each hypothesis, in [0, 1], against the one reference."""
        if self._tokenize is None:
            return [self._chrf.sentence_score(one, [reference]).score / 100 for one in hypotheses]
        reference_tokens = self._tokenize(reference).split()
        return [sentence_bleu(self._tokenize(one).split(), reference_tokens) for one in hypotheses]
