"""From the options to a loss: the one place that knows them all by name."""

from nmtcli.config import ModelConfig, TrainConfig
from nmtcli.data.subword import Subword
from nmtcli.errors import ConfigError
from nmtcli.losses.beam import BeamSearchLoss
from nmtcli.losses.candidates import CandidateSearch
from nmtcli.losses.cross_entropy import CrossEntropy
from nmtcli.losses.greedy import GreedySearchLoss
from nmtcli.losses.interpolation import Interpolation
from nmtcli.losses.max_margin import MaxMargin
from nmtcli.losses.protocol import Loss
from nmtcli.losses.risk import Risk
from nmtcli.losses.sequence_nll import SequenceNLL
from nmtcli.scoring.sentence import Reward


def build_loss(
    config: TrainConfig, model_config: ModelConfig, *, source: Subword, target: Subword, target_lang: str
) -> Loss:
    """The loss that a run trains on.

    Args:
        config, model_config: the run's options.
        source, target: subword models.
        target_lang: decides how a reward cuts text into tokens.
    Raises:
        ConfigError: options that do not go together.
    """
    cross_entropy = CrossEntropy(config.label_smoothing)
    if config.loss == "cross-entropy":
        return cross_entropy
    other = _search_loss(config, model_config, target, target_lang)
    return Interpolation(cross_entropy, other, config.loss_mix) if config.loss_mix else other


def _search_loss(config: TrainConfig, model_config: ModelConfig, target: Subword, target_lang: str) -> Loss:
    if config.loss == "greedy":
        return GreedySearchLoss(
            config.label_smoothing,
            passes=config.greedy_passes,
            teacher_forcing=config.teacher_forcing,
            decay=config.teacher_forcing_decay,
            half=config.teacher_forcing_half,
            forbidden=target.forbidden_ids,
        )
    if config.loss == "beam":
        if model_config.word_dropout:
            raise ConfigError(
                "--loss beam has one dropout mask for the reference and its rivals, but --word-dropout draws for each",
                "Use --word-dropout 0",
            )
        return BeamSearchLoss(
            beam=config.candidates,
            growth=config.beam_growth,
            cost=config.beam_cost,
            forbidden=target.forbidden_ids,
        )
    search = CandidateSearch(
        count=config.candidates,
        by=config.candidates_by,
        with_reference=config.with_reference,
        target=target,
        reward=Reward(config.reward, target_lang),
    )
    if config.loss == "risk":
        return Risk(search, config.risk_alpha)
    return MaxMargin(search) if config.loss == "max-margin" else SequenceNLL(search)
