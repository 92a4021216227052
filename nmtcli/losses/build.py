"""Build a loss from options; the only module that knows all losses by name."""

from collections.abc import Callable
from typing import NamedTuple

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


class Setting(NamedTuple):
    """Options and data from which a loss is built.

    Attributes:
        config, model_config: training options and model options of the run.
        target: subword model of the target side.
        target_lang: target language, which determines how a reward tokenises text.
    """

    config: TrainConfig
    model_config: ModelConfig
    target: Subword
    target_lang: str


def build_loss(config: TrainConfig, model_config: ModelConfig, *, target: Subword, target_lang: str) -> Loss:
    """Build the loss that a run trains on.

    Args:
        config, model_config, target, target_lang: as in `Setting`.
    Raises:
        ConfigError: the loss cannot be combined with another option.
    """
    setting = Setting(config, model_config, target, target_lang)
    loss = LOSSES[config.loss](setting)
    return Interpolation(_cross_entropy(setting), loss, config.loss_mix) if config.loss_mix else loss


def _cross_entropy(setting: Setting) -> CrossEntropy:
    return CrossEntropy(setting.config.label_smoothing)


def _greedy(setting: Setting) -> Loss:
    config = setting.config
    return GreedySearchLoss(
        config.label_smoothing,
        passes=config.greedy_passes,
        teacher_forcing=config.teacher_forcing,
        decay=config.teacher_forcing_decay,
        half=config.teacher_forcing_half,
        forbidden=setting.target.forbidden_ids,
    )


def _beam(setting: Setting) -> Loss:
    if setting.model_config.word_dropout:
        raise ConfigError(
            "--loss beam needs one dropout mask for the reference and its rivals, but --word-dropout draws several",
            "Use --word-dropout 0",
        )
    config = setting.config
    return BeamSearchLoss(
        beam=config.candidates,
        growth=config.beam_growth,
        cost=config.beam_cost,
        forbidden=setting.target.forbidden_ids,
    )


def _risk(setting: Setting) -> Loss:
    return Risk(_candidate_search(setting), setting.config.risk_alpha)


def _max_margin(setting: Setting) -> Loss:
    return MaxMargin(_candidate_search(setting))


def _sequence_nll(setting: Setting) -> Loss:
    return SequenceNLL(_candidate_search(setting))


def _candidate_search(setting: Setting) -> CandidateSearch:
    config = setting.config
    return CandidateSearch(
        count=config.candidates,
        by=config.candidates_by,
        with_reference=config.with_reference,
        target=setting.target,
        reward=Reward(config.reward, setting.target_lang),
    )


LOSSES: dict[str, Callable[[Setting], Loss]] = {  # same names as in config.LOSSES
    "cross-entropy": _cross_entropy,
    "greedy": _greedy,
    "beam": _beam,
    "risk": _risk,
    "max-margin": _max_margin,
    "sequence-nll": _sequence_nll,
}
