"""Translate lines: encode, sort by length, batch, search, decode, and restore the input order.

The translation of a line depends on that line alone, never on its neighbours. This module does not import torch; the
searcher does.
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
    """The subword models for source and target."""

    source: Subword
    target: Subword


class Candidate(NamedTuple):
    """One translation of a line.

    Attributes:
        text: detokenised text.
        hypothesis: token ids, log-probability [nats] and score.
    """

    text: str
    hypothesis: Hypothesis


class Translation(NamedTuple):
    """The translations of one line.

    Attributes:
        candidates: best first; empty for a blank line.
        source_ids: subword ids of the line, ending in EOS.
        was_cut: True if the end of the line was cut off, because the line had more than `max_source_length` tokens.
    """

    candidates: list[Candidate]
    source_ids: list[int]
    was_cut: bool

    @property
    def text(self) -> str:
        """Text of the best translation; empty for a blank line."""
        return self.candidates[0].text if self.candidates else ""


class LineTranslator:
    """Translates lines: handles text, order and batching, and leaves the search to a searcher.

    Args:
        searcher: finds the hypotheses for a batch.
        text: the subword models.
        config: maximum lengths and batch size.
    """

    def __init__(self, searcher: Searcher, text: SubwordPair, config: SearchConfig) -> None:
        self._searcher = searcher
        self._text = text
        self._config = config

    def translate(self, lines: Sequence[str], first_line: int = 0) -> list[Translation]:
        """Translate each line; return the translations in the order of the lines.

        Args:
            lines: lines of text, without line endings.
            first_line: index of the first line in the input stream, from 0; random numbers for sampling depend on it.
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
    """Search sentences in batches; return the hypotheses of each sentence, best first, in input order.

    Args:
        searcher: finds the hypotheses for a batch.
        sources: ids of each sentence, ending in EOS. A sentence that is EOS alone (its line was white space, or only
            characters that the subword model drops) gets no hypotheses.
        line_numbers: line number of each sentence; seed and line number determine the random numbers for sampling.
        config: maximum lengths and batch size.
    """
    found: list[list[Hypothesis]] = [[] for _ in sources]
    order = sorted((n for n, ids in enumerate(sources) if len(ids) > 1), key=lambda n: (len(sources[n]), n))
    sizes = searcher.sizes
    batches = _batches(order, sources, sizes, config.batch_tokens or sizes.tokens)
    batches.reverse()  # longest first, so that workers finish at about the same time
    jobs = (
        SearchBatch.of([sources[n] for n in batch], [line_numbers[n] for n in batch], config.max_length)
        for batch in batches
    )
    for batch, hypotheses in zip(batches, searcher.search_all(jobs), strict=True):
        for number, some in zip(batch, hypotheses, strict=True):
            found[number] = some
    return found


def _batches(order: list[int], sources: Sequence[list[int]], sizes: BatchSizes, limit: int) -> list[list[int]]:
    """Group sentences into batches; return the indices of the sentences in each batch.

    Args:
        order: indices of the sentences, sorted by length, so that the last sentence in a batch is the longest.
        sources: ids of all sentences.
        sizes: preferred batch sizes. If the searcher runs several batches in parallel, the number of batches returned
            is a multiple of `sizes.at_once` where possible, and the batches are of roughly equal size.
        limit: maximum of sentences * hypotheses * longest source in a batch [tokens]; a batch of a single sentence may
            exceed it.
    """
    share = math.inf  # target size of a batch if batches are searched in parallel [tokens]
    if sizes.at_once > 1:
        tokens = sizes.hypotheses * sum(len(sources[number]) for number in order)
        share = tokens / (sizes.at_once * max(1, math.ceil(tokens / limit / sizes.at_once)))
    batches: list[list[int]] = []
    batch: list[int] = []
    before = 0  # tokens in all batches so far, the current batch included
    for number in order:
        size = sizes.hypotheses * len(sources[number])
        if batch and ((len(batch) + 1) * size > limit or before >= share * (len(batches) + 1)):
            full = sizes.full(len(batch))
            batches.append(batch[:full])
            batch = batch[full:]
        batch.append(number)
        before += size
    return [*batches, batch] if batch else batches
