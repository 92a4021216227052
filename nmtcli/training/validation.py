"""Validation: loss over the validation pairs, and BLEU and chrF of real translations against the raw references."""

import math
import random
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

import torch

from nmtcli.config import SearchConfig
from nmtcli.data.batches import Batch, batches_by_length
from nmtcli.data.subword import Subword
from nmtcli.data.text import is_blank
from nmtcli.errors import DataError
from nmtcli.losses.cross_entropy import CrossEntropy
from nmtcli.model.seq2seq import Seq2Seq
from nmtcli.scoring.metrics import Score, bleu, chrf
from nmtcli.search.host import Scoring, SearchRules
from nmtcli.search.model_searcher import ModelSearcher
from nmtcli.search.translator import LineTranslator, SubwordPair
from nmtcli.training.distributed import World


class Sample(NamedTuple):
    """A validation sentence, its reference, and what the model makes of it."""

    source: str
    reference: str
    hypothesis: str


class Validation(NamedTuple):
    """How good a model is on the validation pairs.

    Attributes:
        loss: negative log-likelihood of the references, without smoothing [nats/token].
        perplexity: exp(loss) [1/token].
        bleu, chrf: of the translations, with their signatures.
        samples: a few translations.
    """

    loss: float
    perplexity: float
    bleu: Score
    chrf: Score
    samples: list[Sample]

    def better_than(self, best: float | None, metric: str) -> bool:
        """By this metric, loss, bleu or chrf; anything is better than nothing."""
        value = self.value(metric)
        return best is None or (value < best if metric == "loss" else value > best)

    def value(self, metric: str) -> float:
        """The number of this metric."""
        return self.loss if metric == "loss" else (self.bleu if metric == "bleu" else self.chrf).value


class Validator:
    """Validates models on the same pairs in the same way.

    Args:
        pairs: raw validation text; pairs with a blank side have no part in the loss.
        source, target: subword models.
        target_lang: decides BLEU's tokenizer.
        search: how to translate.
        by_logits: see `search.model_searcher.choose_scoring`.
        batch_tokens: of the loss [tokens/batch].
        samples: translations to show; the same sentences each time.
        device: where the models are.
        autocast: the precision to compute in.
        world: the processes that share the work, and learn the result; None: this one alone.
    """

    def __init__(
        self,
        pairs: Sequence[tuple[str, str]],
        source: Subword,
        target: Subword,
        *,
        target_lang: str,
        search: SearchConfig,
        by_logits: bool = False,
        batch_tokens: int,
        samples: int,
        device: torch.device,
        autocast: Callable[[], AbstractContextManager[object]],
        world: World | None = None,
    ) -> None:
        self._world = world or World()
        self._sources = [source_line for source_line, _ in pairs]
        self._references = [target_line for _, target_line in pairs]
        self._subwords = source, target
        self._target_lang = target_lang
        self._search = search
        self._by_logits = by_logits
        self._device = device
        self._autocast = autocast
        whole = [pair for pair in pairs if not (is_blank(pair[0]) or is_blank(pair[1]))]
        if not whole:
            raise DataError("no validation pair has text on both sides", "Preprocess with another --valid")
        sources, targets = (side.encode_many([pair[n] for pair in whole]) for n, side in enumerate(self._subwords))
        ids = list(zip(sources, targets, strict=True))
        self._batches = [Batch.of([ids[n] for n in numbers]) for numbers in batches_by_length(ids, batch_tokens)]
        self._shown = sorted(random.Random(1).sample(range(len(pairs)), min(samples, len(pairs))))

    def __call__(self, model: Seq2Seq) -> Validation:
        """Validates; the model is left in the mode it was in, and torch's random numbers as they were."""
        was_training = model.training
        model.eval()
        with torch.random.fork_rng([self._device] if self._device.type == "cuda" else []), self._autocast():
            loss = self._loss(model)
            scoring = Scoring.LOGIT if self._by_logits else Scoring.LOG_PROBABILITY
            rules = SearchRules.from_config(self._search, scoring=scoring)
            text = SubwordPair(*self._subwords)
            searcher = ModelSearcher([model], rules, text.target.forbidden_ids, device=self._device)
            translator = LineTranslator(searcher, text, self._search)
            world = self._world
            own = [translation.text for translation in translator.translate(self._sources[world.rank :: world.size])]
        model.train(was_training)
        shares = world.gather(own)
        return world.broadcast(self._validation(loss, shares) if world.is_first else None)  # type: ignore[return-value]

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
            sums = cross_entropy(model, batch.to(self._device))
            assert sums.nll is not None
            total += float(sums.nll)
            tokens += batch.target_tokens
        total, tokens = self._world.all_reduce_sum([total, tokens])
        return total / tokens
