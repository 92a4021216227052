"""Corpus-level BLEU, chrF2 and TER by sacreBLEU, each with the signature that makes the score reproducible.

Text must be detokenised: the metrics tokenise it themselves, by rules for the target language. Scores of tokenised
text are not comparable with published ones; `suspicions` returns warnings about such text.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sacrebleu import BLEU, CHRF, TER

from nmtcli.errors import ConfigError, DataError

References = Sequence[Sequence[str]]

# ISO 639 codes of the Chinese languages and of Japanese
CHINESE = frozenset(("zh", "zho", "chi", "cmn", "yue", "wuu", "lzh", "nan", "hak", "gan", "hsn"))
JAPANESE = frozenset(("ja", "jpn"))

_HAN = r"\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_KANA = r"\u3040-\u30ff\u31f0-\u31ff"
# In raw text, at most 3 % of the lines match (in technical Chinese); in tokenised text, 90 % do.
_MARK_APART = re.compile(r"\S [.,。，、](?: |$)")
_BPE_PIECE = re.compile(r"@@(?: |$)")
_HAN_APART = re.compile(rf"[{_HAN}] (?=[{_HAN}])")
_HAN_TOGETHER = re.compile(rf"[{_HAN}](?=[{_HAN}])")
_TER_TOKEN = re.compile(rf"[{_HAN}]|[^\s{_HAN}]+")


@dataclass(frozen=True)
class Score:
    """The score of one text by one metric.

    Args:
        name: `BLEU`, `chrF2` or `TER`.
        value: the score, from 0 to 100; for TER, 0 is best, and the score may exceed 100.
        signature: sacreBLEU's signature: number of references, case, tokenizer, version, ...
        detail: for BLEU, the four precisions, the brevity penalty and the lengths, as sacreBLEU prints them; otherwise
            empty.
        mean, ci: mean score of the bootstrap samples, and half the width of the 95 % confidence interval; None without
            bootstrap resampling.
        p_value: p-value of the difference from the first system, by paired bootstrap resampling; None for the first
            system, and without bootstrap resampling.
    """

    name: str
    value: float
    signature: str
    detail: str = ""
    mean: float | None = None
    ci: float | None = None
    p_value: float | None = None

    def line(self) -> str:
        """Format the score in one line, as sacreBLEU does.

        >>> Score("TER", 12.5, "nrefs:1|case:lc").line()
        'TER|nrefs:1|case:lc = 12.50'
        """
        return f"{self.name}|{self.signature} = {self.value:.2f} {self.detail}".rstrip()


def tokenizer_for(target_lang: str) -> str:
    """Choose BLEU's tokenizer for a language: `zh`, `ja-mecab`, or `13a` for languages with spaces between words.

    >>> tokenizer_for("zh-CN"), tokenizer_for("ja_JP"), tokenizer_for("de")
    ('zh', 'ja-mecab', '13a')
    """
    language = re.split(r"[-_.]", target_lang.lower())[0]
    return "zh" if language in CHINESE else "ja-mecab" if language in JAPANESE else "13a"


def bleu(
    hypotheses: Sequence[str],
    references: References,
    *,
    target_lang: str = "",
    tokenize: str = "",
    lowercase: bool = False,
) -> Score:
    """Compute corpus BLEU.

    Args:
        hypotheses: translations.
        references: one or more sets of references, each as long as the hypotheses.
        target_lang: language of the text, which determines the tokenizer unless `tokenize` names one.
        tokenize: name of BLEU's tokenizer; empty: choose it by `target_lang`.
        lowercase: if True, ignore case.

    Returns:
        The score as the `sacrebleu` command computes it.

    Raises:
        ConfigError: the language is Japanese, and MeCab is not installed.
        DataError: there are no lines, or the numbers of hypotheses and references differ.

    Source: Papineni et al. 2002; Post 2018 for the signature.
    """
    return _score(_bleu(target_lang, tokenize, lowercase), hypotheses, references)


def chrf(hypotheses: Sequence[str], references: References, *, lowercase: bool = False) -> Score:
    """Compute corpus chrF2: character n-grams up to length 6, white space ignored, recall weighted by beta = 2.

    The arguments and the DataError are those of `bleu`.

    Source: Popović 2016.
    """
    return _score(CHRF(lowercase=lowercase), hypotheses, references)


def ter(hypotheses: Sequence[str], references: References, *, target_lang: str = "") -> Score:
    """Compute corpus TER, ignoring case: edits, including shifts, divided by the reference length. Slow on long lines.

    Chinese and Japanese are normalised with sacreBLEU's Asian support: every Chinese character is a token.
    The arguments and the DataError are those of `bleu`.

    Source: Snover et al. 2006.
    """
    return _score(_ter(target_lang), hypotheses, references)


def corpus_scores(
    hypotheses: Sequence[str],
    references: References,
    *,
    target_lang: str = "",
    tokenize: str = "",
    lowercase: bool = False,
    with_ter: bool = True,
) -> list[Score]:
    """Compute BLEU, chrF2 and, if `with_ter` is True, TER, in this order; for the rest, see `bleu`."""
    metrics = _metrics(target_lang, tokenize, lowercase, with_ter)
    return [_score(metric, hypotheses, references) for metric in metrics]


def compare(
    systems: dict[str, list[str]],
    references: References,
    *,
    target_lang: str = "",
    tokenize: str = "",
    lowercase: bool = False,
    with_ter: bool = True,
    samples: int = 1000,
) -> dict[str, list[Score]]:
    """Score several systems, and compare each with the first by paired bootstrap resampling.

    Args:
        systems: translations by each system, keyed by its name; the first system is the baseline.
        with_ter: if True, also compute TER, which is slow.
        samples: number of bootstrap samples. The seed is sacreBLEU's (12345, or SACREBLEU_SEED). The signature shows
            the number of samples and the seed.

    The other arguments and the errors are those of `bleu`.

    Returns:
        The scores of each system, keyed by its name, in the order of `corpus_scores`; the baseline's p-values are None.

    Source: Koehn 2004.
    """
    from sacrebleu.significance import PairedTest  # imports numpy, which is not needed to score one text

    for hypotheses in systems.values():
        _check_lines(hypotheses, references)
    metrics = {str(index): metric for index, metric in enumerate(_metrics(target_lang, tokenize, lowercase, with_ter))}
    signatures, columns = PairedTest(list(systems.items()), metrics, references, test_type="bs", n_samples=samples)()
    details = {
        name: bleu(hypotheses, references, target_lang=target_lang, tokenize=tokenize, lowercase=lowercase).detail
        for name, hypotheses in systems.items()
    }
    compared: dict[str, list[Score]] = {name: [] for name in systems}
    for metric_name, signature in signatures.items():
        results: list[Any] = columns[metric_name]
        for name, result in zip(systems, results, strict=True):
            score = Score(
                name=metric_name,
                value=float(result.score),
                signature=str(signature),
                detail=details[name] if metric_name == "BLEU" else "",
                mean=float(result.mean),
                ci=float(result.ci),
                p_value=None if result.p_value is None else float(result.p_value),
            )
            compared[name].append(score)
    return compared


def suspicions(
    hypotheses: Sequence[str],
    references: References,
    target_lang: str = "",
    tokenize: str = "",
    *,
    name: str = "the translations",
) -> list[str]:
    """Look for signs that the scores are misleading; return one warning for each sign, with a remedy.

    Args:
        hypotheses, references, target_lang, tokenize: as in `bleu`.
        name: name of the hypotheses in the warnings.
    """
    tokenizer = tokenize or tokenizer_for(target_lang)
    found = _wrong_tokenizer(references, target_lang, tokenizer)
    found += _not_detokenised(hypotheses, name, tokenizer)
    for number, reference in enumerate(references, start=1):
        side = "the references" if len(references) == 1 else f"reference {number}"
        found += _not_detokenised(reference, side, tokenizer)
    empty = [
        number
        for number, (hypothesis, *others) in enumerate(zip(hypotheses, *references, strict=True), start=1)
        if not hypothesis.strip() and any(other.strip() for other in others)
    ]
    if empty:
        are = "is" if len(empty) == 1 else "are"
        share = f"{len(empty):,} of {len(hypotheses):,} lines {are} empty (the first is line {empty[0]:,})"
        found.append(f"{name}: {share}; check whether translation stopped early.")
    return [sentence[0].upper() + sentence[1:] if sentence.startswith("the ") else sentence for sentence in found]


def ter_seconds(hypotheses: Sequence[str]) -> float:
    """Return a very rough estimate of the time that TER takes [seconds].

    On short lines, the search for shifts takes time proportional to the fourth power of the line length. On longer
    lines, sacreBLEU's limits apply: at most 1,000 shifts per line, each with an edit distance computed within a band of
    50 tokens.
    """
    lengths = (len(_TER_TOKEN.findall(line)) for line in hypotheses)
    return sum(min(9e-9 * length**3 * min(length, 50), 0.02 * length) for length in lengths)


def _wrong_tokenizer(references: References, target_lang: str, tokenizer: str) -> list[str]:
    text = "\n".join(line for reference in references for line in reference)
    han, kana = len(re.findall(f"[{_HAN}]", text)), len(re.findall(f"[{_KANA}]", text))
    letters = sum(character.isalpha() for character in text)
    language, code = ("Japanese", "ja") if kana > 0.1 * (han + kana) else ("Chinese", "zh")
    has_cjk = han + kana > 0.2 * letters  # one CJK character corresponds to two or three letters
    is_cjk = tokenizer_for(target_lang) != "13a"
    if has_cjk and tokenizer in ("13a", "intl"):
        mend = f"leave out --tokenize {tokenizer}" if is_cjk else f"add --target-lang {code}"
        return [f"the references are {language}, but BLEU counts a whole clause as one word ({tokenizer}): {mend}."]
    if has_cjk and not is_cjk and tokenizer != "none":
        return [f"the references are {language}, but TER counts a whole clause as one word: add --target-lang {code}."]
    if letters and not has_cjk and tokenizer in ("zh", "ja-mecab"):
        return [f"the references do not suit the tokenizer {tokenizer}: check --target-lang and --ref."]
    return []


def _not_detokenised(lines: Sequence[str], side: str, tokenizer: str) -> list[str]:
    found = []
    some = max(1, len(lines) // 100)
    pieces = sum("▁" in line for line in lines), sum(bool(_BPE_PIECE.search(line)) for line in lines)
    if max(pieces) >= some:
        sign = "▁" if pieces[0] >= pieces[1] else "@@"
        have = "has" if max(pieces) == 1 else "have"
        found.append(
            f"{side}: {max(pieces):,} of {len(lines):,} lines {have} the subword mark {sign}; join the subwords first."
        )
    if tokenizer == "none":  # the caller has tokenised the text on purpose
        return found
    text = "\n".join(lines)
    gaps = len(_HAN_APART.findall(text))
    apart = sum(bool(_MARK_APART.search(line)) for line in lines)
    if gaps > 0.1 * (gaps + len(_HAN_TOGETHER.findall(text))):
        found.append(f"{side}: {gaps:,} spaces stand between Chinese characters; remove them first.")
    elif apart >= max(1, len(lines) // 10):
        look = "looks" if apart == 1 else "look"
        found.append(
            f"{side}: {apart:,} of {len(lines):,} lines {look} tokenised (' ,' or ' .'); detokenise them first."
        )
    return found


def _bleu(target_lang: str, tokenize: str, lowercase: bool) -> BLEU:
    try:  # force: no warning from sacreBLEU about tokenised text; `suspicions` gives its own
        return BLEU(tokenize=tokenize or tokenizer_for(target_lang), lowercase=lowercase, force=True)
    except RuntimeError as error:
        raise ConfigError(
            "the tokenizer ja-mecab needs MeCab, which is not installed", 'Run pip install "nmtcli[ja]"'
        ) from error


def _ter(target_lang: str) -> TER:
    is_cjk = tokenizer_for(target_lang) != "13a"
    return TER(normalized=is_cjk, asian_support=is_cjk)


def _metrics(target_lang: str, tokenize: str, lowercase: bool, with_ter: bool) -> list[BLEU | CHRF | TER]:
    metrics: list[BLEU | CHRF | TER] = [_bleu(target_lang, tokenize, lowercase), CHRF(lowercase=lowercase)]
    return [*metrics, _ter(target_lang)] if with_ter else metrics


def _score(metric: BLEU | CHRF | TER, hypotheses: Sequence[str], references: References) -> Score:
    _check_lines(hypotheses, references)
    result = metric.corpus_score(hypotheses, references)
    detail = result.format().partition(" = ")[2].partition(" ")[2]  # "BLEU = 36.2 67.0/42.9/... (BP = ...)"
    return Score(result.name, float(result.score), str(metric.get_signature()), detail)


def _check_lines(hypotheses: Sequence[str], references: References) -> None:
    """Check that there are lines, and as many on both sides, since sacreBLEU silently truncates the longer side."""
    for reference in references:
        if len(reference) != len(hypotheses):
            raise DataError(
                f"the numbers of translations ({len(hypotheses):,}) and references ({len(reference):,}) differ",
                "Scoring needs one translation for each reference",
            )
    if not hypotheses or not references:
        raise DataError("there are no lines to score")
