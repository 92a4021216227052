"""The record of a model: `config.json` in its directory, as a typed object. This docstring specifies the file.

The file holds one JSON object with these keys, in this order:

    format, version       "nmtcli-model", 1
    source_lang, target_lang
    subword               unigram, bpe, char, word or none
    joint                 true if source and target share one vocabulary
    source_size, target_size          sizes of the vocabularies [pieces]
    source_sha256, target_sha256      hashes of the SentencePiece files, in hexadecimal
    training_sha256       hash of the training pairs (see data/corpus.py)
    model                 the fields of `ModelConfig`; scale_attention defaults to false if it is missing
    training              the fields of `TrainConfig`
    precision             the value of --precision, with `auto` resolved to fp32 or bf16
    batch_tokens          the value of --batch-tokens, with `auto` resolved [tokens/batch]

`format`, `version`, `joint`, the two sizes and `model` are always required. Of the other keys, translation needs only
source_sha256 and target_sha256; a resumed run needs all but `subword`. Unknown keys are kept when the record is
written again.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from nmtcli.config import LOSSES_OF_LOGITS, PRECISIONS, ModelConfig, TrainConfig
from nmtcli.errors import ConfigError, DirectoryError

FORMAT, VERSION = "nmtcli-model", 1
MOST_PIECES = 1 << 24  # maximum size of a vocabulary [pieces]


@dataclass(frozen=True, kw_only=True)
class ModelRecord:
    """Content of `config.json`.

    Attributes:
        source_lang, target_lang, subword, joint, source_size, target_size, source_sha256, target_sha256,
            training_sha256, model, precision: see the module docstring; None if the key is missing.
        training: the training options, not yet parsed; see `train_config`.
        batch_tokens: the JSON value, not yet checked; see `resolved_batch_tokens`.
        others: all unknown keys, with their values.
    """

    source_lang: str | None = None
    target_lang: str | None = None
    subword: str | None = None
    joint: bool
    source_size: int
    target_size: int
    source_sha256: str | None = None
    target_sha256: str | None = None
    training_sha256: str | None = None
    model: ModelConfig
    training: Mapping[str, Any] | None = None
    precision: str | None = None
    batch_tokens: Any = None
    others: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, values: Mapping[str, Any], file: Path) -> Self:
        """Parse the content of `config.json`.

        Args:
            values: the JSON object.
            file: path of `config.json`, for error messages.
        Raises:
            DirectoryError: the format or version is not supported, or a required key is missing or unusable.
        """
        check_format(values, file)
        sizes = [values.get(name) for name in ("source_size", "target_size")]
        joint, training = values.get("joint"), values.get("training")
        if not all(isinstance(size, int) and 0 < size <= MOST_PIECES for size in sizes) or not isinstance(joint, bool):
            raise DirectoryError(f"{file} has no usable sizes of its vocabularies", "Copy it again")
        try:
            # models older than this option do not scale attention scores
            model = ModelConfig.from_dict({"scale_attention": False, **values["model"]})
        except (ConfigError, KeyError, TypeError) as error:
            raise DirectoryError(f"{file} has no usable model configuration ({error})") from error
        known = {record_field.name for record_field in dataclasses.fields(cls)} | {"format", "version"}
        return cls(
            **{name: None if values.get(name) is None else str(values[name]) for name in _TEXTS},
            joint=joint,
            source_size=int(values["source_size"]),
            target_size=int(values["target_size"]),
            model=model,
            training=training if isinstance(training, dict) else None,
            batch_tokens=values.get("batch_tokens"),
            others={name: value for name, value in values.items() if name not in known},
        )

    def to_json(self) -> dict[str, Any]:
        """Return the content of `config.json`; `from_json` restores an equal record from it."""
        values: dict[str, Any] = {"format": FORMAT, "version": VERSION}
        for record_field in dataclasses.fields(self):
            value = getattr(self, record_field.name)
            if record_field.name == "others":
                values |= value
            elif value is not None:
                values[record_field.name] = value.to_dict() if isinstance(value, ModelConfig) else value
        return values

    @property
    def direction(self) -> str:
        """Translation direction, such as "de to en"."""
        return f"{self.source_lang} to {self.target_lang}"

    def sha256_of(self, side: str) -> str | None:
        """Return the hash of the subword model for one side, "source" or "target"; None if it is missing."""
        return self.source_sha256 if side == "source" else self.target_sha256

    @property
    def searches_by_logits(self) -> bool:
        """True if search scores a hypothesis by the logit of its last token, not by summed log-probabilities."""
        return self.training is not None and self.training.get("loss") in LOSSES_OF_LOGITS

    def train_config(self, file: Path) -> TrainConfig:
        """Parse the training options; only a resumed run needs them.

        Args:
            file: path of `config.json`, for error messages.
        Raises:
            DirectoryError: the options or the precision are missing or unusable.
        """
        try:
            if self.precision not in PRECISIONS:
                raise ConfigError(f"precision is {self.precision}")
            if self.training is None:
                raise ConfigError("there are no training options")
            return TrainConfig.from_dict(self.training)
        except (ConfigError, TypeError) as error:
            raise DirectoryError(f"{file} has no usable training configuration ({error})") from error

    def resolved_batch_tokens(self, file: Path) -> int:
        """Return the value of --batch-tokens, with `auto` resolved [tokens/batch].

        Args:
            file: path of `config.json`, for error messages.
        Raises:
            DirectoryError: batch_tokens is missing or unusable.
        """
        if not isinstance(self.batch_tokens, int) or self.batch_tokens < 1:
            raise DirectoryError(f"{file}: batch_tokens is {self.batch_tokens!r}", "Give --batch-tokens")
        return self.batch_tokens


_TEXTS = (  # keys whose values are converted to text, whatever their JSON type
    *("source_lang", "target_lang", "subword", "source_sha256", "target_sha256", "training_sha256", "precision"),
)


def check_format(values: Mapping[str, Any], file: Path) -> None:
    """Check that a JSON object is a model configuration in the format version that this release reads.

    Raises:
        DirectoryError: the format or version is not supported.
    """
    if values.get("format") != FORMAT:
        raise DirectoryError(f"{file} is not the configuration of a model", "Name a directory that nmt train made")
    if values.get("version") != VERSION:
        raise DirectoryError(
            f"{file.parent} has version {values.get('version')} of the model format, but this nmt knows {VERSION}",
            "Use the nmt that made it",
        )
