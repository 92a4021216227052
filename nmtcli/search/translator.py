"""From lines to translations: encode, sort by length, batch, search, decode, and back in the order that came in.

The only place that sorts by length. What a line becomes depends on that line alone, never on its neighbours. Nothing
here imports torch: the searcher does.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from nmtcli.config import SearchConfig
from nmtcli.data.subword import EOS, Subword
from nmtcli.data.text import is_blank
from nmtcli.search.host import Hypothesis, SearchBatch
from nmtcli.search.searchers import BatchSizes, Searcher


class SubwordPair(NamedTuple):
    """The subword models of both sides."""

    source: Subword
    target: Subword


class Candidate(NamedTuple):
    """One translation of a line.

    Attributes:
        text: detokenised.
        hypothesis: its ids, log-probability [nats] and score.
    """

    text: str
    hypothesis: Hypothesis


class Translation(NamedTuple):
    """The translations of one line.

    Attributes:
        candidates: best first; none for a blank line.
        source_ids: EOS at the end.
        was_cut: the line was longer than the longest source.
    """

    candidates: list[Candidate]
    source_ids: list[int]
    was_cut: bool

    @property
    def text(self) -> str:
        """The best translation; empty for a blank line."""
        return self.candidates[0].text if self.candidates else ""


class LineTranslator:
    """Translates lines: text, order and batches are its business, the hypotheses are the searcher's.

    Args:
        searcher: what finds the hypotheses of a batch.
        text: the subword models.
        config: lengths and batches.
    """

    def __init__(self, searcher: Searcher, text: SubwordPair, config: SearchConfig) -> None:
        self._searcher = searcher
        self._text = text
        self._config = config

    def translate(self, lines: Sequence[str], first_line: int = 0) -> list[Translation]:
        """As many translations as lines, in their order.

        Args:
            lines: text, without line ends.
            first_line: number of the first one in its stream; sampling depends on it.
        """
        limit = self._config.max_source_length
        encoded = self._text.source.encode_many(["" if is_blank(line) else line for line in lines])
        sources = [ids if len(ids) <= limit + 1 else [*ids[:limit], EOS] for ids in encoded]
        numbers = range(first_line, first_line + len(lines))
        found = search_sentences(self._searcher, sources, numbers, self._config)
        return [
            Translation(
                candidates=[Candidate(self._text.target.decode(one.ids), one) for one in candidates],
                source_ids=ids,
                was_cut=len(whole) > len(ids),
            )
            for candidates, ids, whole in zip(found, sources, encoded, strict=True)
        ]


def search_sentences(
    searcher: Searcher, sources: Sequence[list[int]], line_numbers: Sequence[int], config: SearchConfig
) -> list[list[Hypothesis]]:
    """The hypotheses of sentences, in their order: best first, as many as are wanted or there are.

    Args:
        searcher: what finds the hypotheses of a batch.
        sources: ids, EOS at the end. One that is EOS alone (of white space, or of characters that the subword model
            drops) has no hypothesis.
        line_numbers: what samples depend on, beside the seed.
        config: lengths and batches.
    """
    found: list[list[Hypothesis]] = [[] for _ in sources]
    order = sorted((n for n, ids in enumerate(sources) if len(ids) > 1), key=lambda n: (len(sources[n]), n))
    sizes = searcher.sizes
    batches = _batches(order, sources, sizes, config.batch_tokens or sizes.tokens)
    batches.reverse()  # the longest first: workers end at about the same time
    jobs = (
        SearchBatch.of([sources[n] for n in batch], [line_numbers[n] for n in batch], config.max_length)
        for batch in batches
    )
    for batch, hypotheses in zip(batches, searcher.search_all(jobs), strict=True):
        for number, some in zip(batch, hypotheses, strict=True):
            found[number] = some
    return found


def _batches(order: list[int], sources: Sequence[list[int]], sizes: BatchSizes, limit: int) -> list[list[int]]:
    """Cut sentences into batches.

    Args:
        order: the sentences by rising length: the last one of a batch is its longest.
        sources: ids of all sentences.
        sizes: of the searcher. If it searches several batches at once, each of its searchers gets as many, of about
            the same size.
        limit: sentences times hypotheses times longest source, in each batch of several sentences [tokens].
    """
    share = math.inf  # of a batch
    if sizes.at_once > 1:
        tokens = sizes.hypotheses * sum(len(sources[number]) for number in order)
        share = tokens / (sizes.at_once * max(1, math.ceil(tokens / limit / sizes.at_once)))
    batches: list[list[int]] = []
    batch: list[int] = []
    before = 0  # tokens of all
    for number in order:
        size = sizes.hypotheses * len(sources[number])
        if batch and ((len(batch) + 1) * size > limit or before >= share * (len(batches) + 1)):
            full = sizes.full(len(batch))
            batches.append(batch[:full])
            batch = batch[full:]
        batch.append(number)
        before += size
    return [*batches, batch] if batch else batches
