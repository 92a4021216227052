"""A searcher with models in this process: beam search, greedy search or sampling, in CUDA graphs on a GPU."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch

from nmtcli.config import SearchConfig
from nmtcli.data.shortlist import Shortlist
from nmtcli.model.seq2seq import Seq2Seq
from nmtcli.search.ensemble import Ensemble
from nmtcli.search.graphs import Graphs
from nmtcli.search.host import Scoring, SearchBatch, SearchProgram, SearchRules, run_search
from nmtcli.search.rules import BeamProgram, Runner
from nmtcli.search.sampling import StepwiseProgram
from nmtcli.search.searchers import BatchSizes, Found

BATCH_TOKENS = {"cpu": 4096, "cuda": 32_768}


class ModelSearcher:
    """Searches with one model, or with the mean of several: a `search.searchers.Searcher`.

    Args:
        models: in eval mode, all on one device, with the same vocabularies.
        rules: of the search. `choose_scoring` tells where hypotheses may go unscored.
        forbidden_ids: disallowed tokens.
        device: where the models are.
        shortlist: see `Ensemble`.
        runner: how to take steps; None: in CUDA graphs where these can be.
        after_batch: is called after every batch.
    """

    def __init__(
        self,
        models: Sequence[Seq2Seq],
        rules: SearchRules,
        forbidden_ids: Sequence[int],
        *,
        device: torch.device,
        shortlist: Shortlist | None = None,
        runner: Runner | None = None,
        after_batch: Callable[[], None] | None = None,
    ) -> None:
        self.sizes = batch_sizes(rules, device)
        self._rules = rules
        self._device = device
        forbidden = torch.tensor(forbidden_ids, device=device)
        self._ensemble = Ensemble(models, forbidden, scoring=rules.scoring, shortlist=shortlist)
        if runner is None:
            # the shape of a shortlist depends on the words of the source
            runner = Graphs(captures_starts=shortlist is None) if _uses_graphs(rules, device) else Runner()
        self._runner = runner
        self._after_batch = after_batch

    @torch.inference_mode()
    def search(self, batch: SearchBatch) -> Found:
        """See `search.searchers.Searcher`."""
        found = run_search(self._program(), batch)
        if self._after_batch is not None:
            self._after_batch()
        return found

    def search_all(self, batches: Iterable[SearchBatch]) -> Iterator[Found]:
        """See `search.searchers.Searcher`: one after the other."""
        return map(self.search, batches)

    def _program(self) -> SearchProgram:
        rules, runner = self._rules, self._runner
        if rules.sampling or (rules.beam == 1 and not runner.is_fixed):
            return StepwiseProgram(self._ensemble, rules, device=self._device, runner=runner)
        return BeamProgram(self._ensemble, rules, device=self._device, runner=runner)


def batch_sizes(rules: SearchRules, device: torch.device) -> BatchSizes:
    """The sizes of the batches that a `ModelSearcher` on this device wants."""
    return BatchSizes(hypotheses=rules.beam, tokens=BATCH_TOKENS[device.type], pads_rows=_uses_graphs(rules, device))


def _uses_graphs(rules: SearchRules, device: torch.device) -> bool:
    return device.type == "cuda" and not rules.with_attention


def choose_scoring(
    config: SearchConfig, device: torch.device, *, models: int, by_logits: bool, with_scores: bool
) -> Scoring:
    """What hypotheses are scored by.

    Args:
        config: the options of the search.
        device: where the models are.
        models: how many there are.
        by_logits: they were trained to be searched by logits.
        with_scores: somebody reads the scores.
    """
    if by_logits:
        return Scoring.LOGIT
    is_greedy = config.beam == 1 and not config.sample
    needs_no_sums = is_greedy and models == 1 and device.type == "cpu" and not with_scores
    return Scoring.UNSCORED if needs_no_sums else Scoring.LOG_PROBABILITY
