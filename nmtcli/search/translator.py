"""From lines to translations: encode, sort by length, batch, search, decode, and back in the order that came in.

The only place that sorts by length. What a line becomes depends on that line alone, never on its neighbours.
"""

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from nmtcli.config import SearchConfig
from nmtcli.data.batches import padded
from nmtcli.data.shortlist import Shortlist
from nmtcli.data.subword import BOS, EOS, Subword
from nmtcli.data.text import is_blank
from nmtcli.model.seq2seq import Seq2Seq
from nmtcli.search.beam import Hypothesis, Runner, beam_search
from nmtcli.search.ensemble import Ensemble
from nmtcli.search.graphs import Graphs
from nmtcli.search.sampling import step_by_step

BATCH_TOKENS = {"cpu": 4096, "cuda": 32_768}
EXTRA_LENGTH = 10  # what every output may have beyond its multiple of the source [tokens]


class Candidate(NamedTuple):
    """One translation of a line.

    Attributes:
        text: detokenised.
        hypothesis: its ids, log-probability [nats] and score.
    """

    text: str
    hypothesis: Hypothesis


class Translation(NamedTuple):
    """What became of one line.

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


class SearchBatch(NamedTuple):
    """Sentences that are searched together.

    Attributes:
        sources: ids, EOS at the end.
        line_numbers: what samples depend on, beside the seed.
    """

    sources: list[list[int]]
    line_numbers: list[int]


SearchBatches = Callable[[Iterable[SearchBatch]], Iterable[list[list[Hypothesis]]]]


class Translator:
    """Translates lines with one model, or with the mean of several.

    Args:
        models: in eval mode, all on one device, with the same vocabularies; none, where `search` has them.
        source, target: subword models.
        config: how to search.
        device: where the models are.
        wanted: hypotheses of each line: the n best, or n samples.
        by_logits: the score of a hypothesis is the logit of its last token, as models are trained by losses/beam.py,
            rather than the sum of log-probabilities; there is no penalty then.
        with_attention: keep attention weights.
        with_scores: scores and log-probabilities are asked for. Greedy search with one model on a CPU leaves them out
            otherwise: what stands in their place means nothing.
        shortlist: see `Ensemble`.
        search: what searches batches, in their order; None: this one does, one after the other.
        searchers: how many batches `search` searches at a time. Each gets as many, of about the same size.
    """

    def __init__(
        self,
        models: Sequence[Seq2Seq],
        source: Subword,
        target: Subword,
        config: SearchConfig,
        *,
        device: torch.device,
        wanted: int = 1,
        by_logits: bool = False,
        with_attention: bool = False,
        with_scores: bool = True,
        shortlist: Shortlist | None = None,
        search: SearchBatches | None = None,
        searchers: int = 1,
    ) -> None:
        self._source = source
        self._target = target
        self._config = config
        self._device = device
        self._wanted = wanted
        self._by_logits = by_logits
        self._with_attention = with_attention
        self._search = search
        self._searchers = searchers
        self._has_fixed_start = shortlist is None  # the shape of what may be said depends on the source
        self._runner = Graphs() if device.type == "cuda" and not with_attention else Runner()
        forbidden = torch.tensor(target.forbidden_ids, device=device if models else "cpu")
        is_greedy = config.beam == 1 and not config.sample and device.type == "cpu"
        needs_no_sums = is_greedy and not with_scores and len(models) == 1
        self._ensemble = Ensemble(models, forbidden, by_logits=by_logits or needs_no_sums, shortlist=shortlist)

    def translate(self, lines: Sequence[str], first_line: int = 0) -> list[Translation]:
        """As many translations as lines, in their order.

        Args:
            lines: text, without line ends.
            first_line: number of the first one in its stream; sampling depends on it.
        """
        limit = self._config.max_source_length
        encoded = self._source.encode_many(["" if is_blank(line) else line for line in lines])
        sources = [ids if len(ids) <= limit + 1 else [*ids[:limit], EOS] for ids in encoded]
        found = self.search_all(sources, range(first_line, first_line + len(lines)))
        return [
            Translation(
                candidates=[Candidate(self._target.decode(one.ids), one) for one in candidates],
                source_ids=ids,
                was_cut=len(whole) > len(ids),
            )
            for candidates, ids, whole in zip(found, sources, encoded, strict=True)
        ]

    def search_all(self, sources: Sequence[list[int]], line_numbers: Sequence[int]) -> list[list[Hypothesis]]:
        """The hypotheses of sentences, in their order: best first, as many as are wanted or there are.

        Args:
            sources: ids, EOS at the end. One that is EOS alone (of white space, or of characters that the subword
                model drops) has no hypothesis.
            line_numbers: what samples depend on, beside the seed.
        """
        found: list[list[Hypothesis]] = [[] for _ in sources]
        order = sorted((n for n, ids in enumerate(sources) if len(ids) > 1), key=lambda n: (len(sources[n]), n))
        batches = self._batches(order, sources)[::-1]  # the longest first: workers end at about the same time
        jobs = (SearchBatch([sources[n] for n in batch], [line_numbers[n] for n in batch]) for batch in batches)
        answers = map(self.search_batch, jobs) if self._search is None else self._search(jobs)
        for batch, hypotheses in zip(batches, answers, strict=True):
            for number, some in zip(batch, hypotheses, strict=True):
                found[number] = some
        return found

    def _batches(self, order: list[int], sources: Sequence[list[int]]) -> list[list[int]]:
        rows = self._wanted if self._config.sample else self._config.beam
        limit = self._config.batch_tokens or BATCH_TOKENS[self._device.type]
        share = math.inf  # of a batch
        if self._searchers > 1:
            tokens = rows * sum(len(sources[number]) for number in order)
            share = tokens / (self._searchers * max(1, math.ceil(tokens / limit / self._searchers)))
        batches: list[list[int]] = []
        batch: list[int] = []
        before = 0  # tokens of all
        for number in order:  # rising lengths: the last one of a batch is its longest
            size = rows * len(sources[number])
            if batch and ((len(batch) + 1) * size > limit or before >= share * (len(batches) + 1)):
                full = self._runner.full(len(batch))
                batches.append(batch[:full])
                batch = batch[full:]
            batch.append(number)
            before += size
        return [*batches, batch] if batch else batches

    @torch.inference_mode()
    def search_batch(self, batch: SearchBatch) -> list[list[Hypothesis]]:
        """The hypotheses of each sentence, best first, as many as are wanted or there are."""
        return [some[: self._wanted] for some in self._searched(*batch)]

    def _searched(self, sources: list[list[int]], line_numbers: list[int]) -> list[list[Hypothesis]]:
        config = self._config
        source_BS, mask_BS = padded(sources)
        padding = self._runner.width(source_BS.shape[1]) - source_BS.shape[1]
        source_BS, mask_BS = (F.pad(values, (0, padding)).to(self._device) for values in (source_BS, mask_BS))
        max_lengths = [math.floor(config.max_length * len(source)) + EXTRA_LENGTH for source in sources]
        rows = self._wanted if config.sample else config.beam
        begin = self._runner.begin if self._has_fixed_start else Runner().begin
        state = begin(lambda ids_BS, real_BS: self._ensemble.start(ids_BS, real_BS, rows), source_BS, mask_BS)
        max_lengths_B = torch.tensor(max_lengths)
        if config.sample or (config.beam == 1 and not self._runner.is_fixed):
            return step_by_step(
                self._ensemble.step,
                state,
                source_mask_BS=mask_BS,
                max_lengths_B=max_lengths_B.to(self._device),
                bos=BOS,
                eos=EOS,
                alpha=0.0 if self._by_logits else config.length_penalty,
                accumulates=not self._by_logits,
                uniform_BKT=self._uniform(line_numbers, max(max_lengths)) if config.sample else None,
                top_k=config.top_k,
                top_p=config.top_p,
                temperature=config.temperature,
                with_attention=self._with_attention,
            )
        return beam_search(
            self._ensemble.step,
            state,
            source_mask_BS=mask_BS,
            max_lengths_B=max_lengths_B,
            beam=config.beam,
            bos=BOS,
            eos=EOS,
            alpha=0.0 if self._by_logits else config.length_penalty,
            beta=0.0 if self._by_logits else config.coverage_penalty,
            accumulates=not self._by_logits,
            best=self._wanted,
            most=self._wanted,
            with_attention=self._with_attention,
            runner=self._runner,
        )

    def _uniform(self, line_numbers: list[int], longest: int) -> Tensor:
        """Random numbers of each line: a function of seed and line number, whatever else is in the batch."""
        rows = []
        for number in line_numbers:
            key = hashlib.blake2b(f"{self._config.seed} {number}".encode(), digest_size=8).digest()
            random = np.random.default_rng(int.from_bytes(key, "little"))
            rows.append(random.random((longest, self._wanted), dtype=np.float32).T)  # by step: any length begins alike
        return torch.from_numpy(np.stack(rows)).to(self._device)
