"""The searcher with models in this process: beam search, greedy search or sampling; on a GPU in CUDA graphs."""

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
    """A `search.searchers.Searcher` with one model or an ensemble.

    Args:
        models: in eval mode, all on one device, with the same vocabularies.
        rules: settings of the search; `choose_scoring` chooses their scoring.
        forbidden_ids: disallowed tokens.
        device: device of the models.
        shortlist: argument of `Ensemble`.
        runner: takes the steps; None: CUDA graphs where they can be used, else one step at a time.
        after_batch: called after every batch.
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
            # The size of a shortlist depends on the words of the source, so starts with one have no fixed shape.
            runner = Graphs(captures_starts=shortlist is None) if _uses_graphs(rules, device) else Runner()
        self._runner = runner
        self._after_batch = after_batch

    @torch.inference_mode()
    def search(self, batch: SearchBatch) -> Found:
        """Search one batch; return the hypotheses of each sentence, best first."""
        found = run_search(self._program(), batch)
        if self._after_batch is not None:
            self._after_batch()
        return found

    def search_all(self, batches: Iterable[SearchBatch]) -> Iterator[Found]:
        """Search batches one after the other."""
        return map(self.search, batches)

    def _program(self) -> SearchProgram:
        rules, runner = self._rules, self._runner
        if rules.sampling or (rules.beam == 1 and not runner.is_fixed):
            return StepwiseProgram(self._ensemble, rules, device=self._device, runner=runner)
        return BeamProgram(self._ensemble, rules, device=self._device, runner=runner)


def batch_sizes(rules: SearchRules, device: torch.device) -> BatchSizes:
    """Return the batch sizes of a `ModelSearcher` on this device."""
    return BatchSizes(hypotheses=rules.beam, tokens=BATCH_TOKENS[device.type], pads_rows=_uses_graphs(rules, device))


def _uses_graphs(rules: SearchRules, device: torch.device) -> bool:
    return device.type == "cuda" and not rules.with_attention


def choose_scoring(
    config: SearchConfig, device: torch.device, *, models: int, by_logits: bool, with_scores: bool
) -> Scoring:
    """Choose how hypotheses are scored.

    Args:
        config: the options of the search.
        device: device of the models.
        models: number of models.
        by_logits: the models were trained to be searched by logits.
        with_scores: scores are shown, so they have to be computed.
    """
    if by_logits:
        return Scoring.LOGIT
    is_greedy = config.beam == 1 and not config.sample
    needs_no_sums = is_greedy and models == 1 and device.type == "cpu" and not with_scores
    return Scoring.UNSCORED if needs_no_sums else Scoring.LOG_PROBABILITY
