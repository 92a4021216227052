"""Validation: the loss on the validation pairs, and BLEU and chrF of their translations against the raw references."""

import math
import random
from collections.abc import Sequence
from typing import NamedTuple

import torch

from nmtcli.config import SearchConfig, TrainConfig
from nmtcli.data.batches import Batch, batches_by_length
from nmtcli.data.text import is_blank
from nmtcli.errors import DataError
from nmtcli.losses.cross_entropy import CrossEntropy
from nmtcli.model.seq2seq import Seq2Seq
from nmtcli.scoring.metrics import Score, bleu, chrf
from nmtcli.search.host import Scoring, SearchRules
from nmtcli.search.model_searcher import ModelSearcher
from nmtcli.search.translator import LineTranslator, SubwordPair
from nmtcli.store.record import ModelRecord
from nmtcli.training.distributed import World
from nmtcli.training.machine import Machine


class Sample(NamedTuple):
    """A validation sentence, its reference and its translation."""

    source: str
    reference: str
    hypothesis: str


class Validation(NamedTuple):
    """Scores of a model on the validation pairs.

    Attributes:
        loss: mean negative log-likelihood of the references, without label smoothing [nats/token].
        perplexity: perplexity per token, exp(loss).
        bleu, chrf: scores of the translations, each with its sacrebleu signature.
        samples: a few sentences with their references and translations.
    """

    loss: float
    perplexity: float
    bleu: Score
    chrf: Score
    samples: list[Sample]

    def better_than(self, best: float | None, metric: str) -> bool:
        """Return True if this result beats `best`, the best value of `metric` so far, or if `best` is None."""
        value = self.value(metric)
        return best is None or (value < best if metric == "loss" else value > best)

    def value(self, metric: str) -> float:
        """Return the value of `metric`, which is loss, bleu or chrf."""
        return self.loss if metric == "loss" else (self.bleu if metric == "bleu" else self.chrf).value


class Validator:
    """Validates models, always on the same pairs and with the same search.

    Args:
        pairs: raw validation text; pairs with a blank side are left out of the loss.
        text: the subword models of both sides.
        record: record of the model; determines the tokenizer for BLEU (by target language), and whether search scores
            hypotheses by logits.
        config: gives the beam size and the number of sample translations; all validations show the same sentences.
        batch_tokens: maximum of sentences times the longest sentence, source or target, in a batch [tokens/batch];
            applies to the loss only, not to translation.
        machine: the hardware and precision used.
        world: the ranks that share the work; every rank receives the result.
    Raises:
        DataError: no pair has text on both sides.
    """

    def __init__(
        self,
        pairs: Sequence[tuple[str, str]],
        text: SubwordPair,
        record: ModelRecord,
        config: TrainConfig,
        *,
        batch_tokens: int,
        machine: Machine,
        world: World,
    ) -> None:
        self._sources = [source for source, _ in pairs]
        self._references = [target for _, target in pairs]
        self._text = text
        self._target_lang = record.target_lang or ""
        self._search = SearchConfig(beam=config.validation_beam)
        scoring = Scoring.LOGIT if record.searches_by_logits else Scoring.LOG_PROBABILITY
        self._rules = SearchRules.from_config(self._search, scoring=scoring)
        self._machine = machine
        self._world = world
        whole = [pair for pair in pairs if not (is_blank(pair[0]) or is_blank(pair[1]))]
        if not whole:
            raise DataError("no validation pair has text on both sides", "Preprocess with another --valid")
        sources, targets = (side.encode_many([pair[n] for pair in whole]) for n, side in enumerate(text))
        ids = list(zip(sources, targets, strict=True))
        self._batches = [Batch.of([ids[n] for n in numbers]) for numbers in batches_by_length(ids, batch_tokens)]
        self._shown = sorted(random.Random(1).sample(range(len(pairs)), min(config.show, len(pairs))))

    def __call__(self, model: Seq2Seq) -> Validation:
        """Validate a model; leave its training mode and torch's random generators unchanged."""
        was_training = model.training
        model.eval()
        device, world = self._machine.device, self._world
        with torch.random.fork_rng([device] if device.type == "cuda" else []), self._machine.autocast():
            loss = self._loss(model)
            searcher = ModelSearcher([model], self._rules, self._text.target.forbidden_ids, device=device)
            translator = LineTranslator(searcher, self._text, self._search)
            own = [translation.text for translation in translator.translate(self._sources[world.rank :: world.size])]
        model.train(was_training)
        shares = world.gather(own)
        validation = world.broadcast(self._validation(loss, shares) if world.is_first else None)
        assert validation is not None
        return validation

    def _validation(self, loss: float, shares: list[list[str]]) -> Validation:
        hypotheses = [shares[n % len(shares)][n // len(shares)] for n in range(len(self._sources))]
        return Validation(
            loss=loss,
            perplexity=math.exp(min(loss, 700.0)),
            bleu=bleu(hypotheses, [self._references], target_lang=self._target_lang),
            chrf=chrf(hypotheses, [self._references]),
            samples=[Sample(self._sources[n], self._references[n], hypotheses[n]) for n in self._shown],
        )

    @torch.no_grad()
    def _loss(self, model: Seq2Seq) -> float:
        cross_entropy = CrossEntropy(label_smoothing=0.0)
        total, tokens = 0.0, 0.0
        for batch in self._batches[self._world.rank :: self._world.size]:
            sums = cross_entropy(model, batch.to(self._machine.device))
            assert sums.nll is not None
            total += float(sums.nll)
            tokens += batch.target_tokens
        total, tokens = self._world.all_reduce_sum([total, tokens])
        return total / tokens
