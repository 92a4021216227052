"""The searcher that runs models in this process: beam search, greedy search or sampling; on a GPU, in CUDA graphs."""

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

BATCH_TOKENS = {"cpu": 4096, "cuda": 32_768}  # `BatchSizes.tokens` for each type of device


class ModelSearcher:
    """A `search.searchers.Searcher` that runs one model or an ensemble in this process.

    Args:
        models: in eval mode, all on one device, with the same vocabularies.
        rules: settings of the search; `choose_scoring` selects `rules.scoring`.
        forbidden_ids: ids of tokens that are never emitted.
        device: device of the models.
        shortlist: see `Ensemble`.
        runner: takes the steps; None: CUDA graphs on a GPU unless attention is recorded, otherwise one step at a time.
        after_batch: called after every batch, if given.
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
            # The size of a shortlist depends on the words in the source: the initial state then has no fixed shape.
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
        """Search batches one after the other; yield the hypotheses for each batch."""
        return map(self.search, batches)

    def _program(self) -> SearchProgram:
        rules, runner = self._rules, self._runner
        if rules.sampling or (rules.beam == 1 and not runner.is_fixed):
            return StepwiseProgram(self._ensemble, rules, device=self._device, runner=runner)
        return BeamProgram(self._ensemble, rules, device=self._device, runner=runner)


def batch_sizes(rules: SearchRules, device: torch.device) -> BatchSizes:
    """Return the preferred batch sizes of a `ModelSearcher` on this device."""
    return BatchSizes(hypotheses=rules.beam, tokens=BATCH_TOKENS[device.type], pads_rows=_uses_graphs(rules, device))


def _uses_graphs(rules: SearchRules, device: torch.device) -> bool:
    return device.type == "cuda" and not rules.with_attention


def choose_scoring(
    config: SearchConfig, device: torch.device, *, models: int, by_logits: bool, with_scores: bool
) -> Scoring:
    """Choose how hypotheses are scored.

    Args:
        config: the search options.
        device: device of the models.
        models: number of models.
        by_logits: True if the models were trained for search by logits.
        with_scores: True if scores are printed and must therefore be computed.
    """
    if by_logits:
        return Scoring.LOGIT
    is_greedy = config.beam == 1 and not config.sample
    needs_no_sums = is_greedy and models == 1 and device.type == "cpu" and not with_scores
    return Scoring.UNSCORED if needs_no_sums else Scoring.LOG_PROBABILITY
