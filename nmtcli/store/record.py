"""The record of a model, the `config.json` of its directory, as a typed object. This docstring is its specification.

One JSON object. Its keys, in this order:

    format, version       "nmtcli-model", 1
    source_lang, target_lang
    subword               unigram, bpe, char, word or none
    joint                 true if source and target share one vocabulary
    source_size, target_size          sizes of the vocabularies [pieces]
    source_sha256, target_sha256      of the SentencePiece files, in hexadecimal
    training_sha256       of the training pairs (see data/corpus.py)
    model                 the fields of `ModelConfig`; without scale_attention, attention scores are not scaled
    training              the fields of `TrainConfig`
    precision             fp32 or bf16, with `auto` resolved
    batch_tokens          with `auto` resolved [tokens/batch]

`joint`, the two sizes and `model` are required. The others may be missing: translation needs the hashes of the
vocabularies, and only a resumed run reads the training options. Unknown keys are kept when the record is written again.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from nmtcli.config import LOSSES_OF_LOGITS, PRECISIONS, ModelConfig, TrainConfig
from nmtcli.errors import ConfigError, DirectoryError

FORMAT, VERSION = "nmtcli-model", 1
MOST_PIECES = 1 << 24  # most pieces of a vocabulary


@dataclass(frozen=True, kw_only=True)
class ModelRecord:
    """Content of `config.json`.

    Attributes:
        source_lang, target_lang, subword, joint, source_size, target_size, source_sha256, target_sha256,
            training_sha256, model, precision: see the specification above; None where a key is missing.
        training: the training options as in JSON; `train_config` parses them.
        batch_tokens: the value as in JSON; `resolved_batch_tokens` checks it.
        others: keys that this version does not know.
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
            file: where it was read, for error messages.
        Raises:
            DirectoryError: the format or the version is another one, or a required key is missing or unusable.
        """
        check_format(values, file)
        sizes = [values.get(name) for name in ("source_size", "target_size")]
        joint, training = values.get("joint"), values.get("training")
        if not all(isinstance(size, int) and 0 < size <= MOST_PIECES for size in sizes) or not isinstance(joint, bool):
            raise DirectoryError(f"{file} has no usable sizes of its vocabularies", "Copy it again")
        try:
            # models from before this option existed do not scale their attention
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
        """Languages of the model, such as "de to en"."""
        return f"{self.source_lang} to {self.target_lang}"

    def sha256_of(self, side: str) -> str | None:
        """Return the hash of the subword model of `source` or `target`."""
        return self.source_sha256 if side == "source" else self.target_sha256

    @property
    def searches_by_logits(self) -> bool:
        """True if the model scores whole hypotheses by logits, rather than tokens by log-probabilities."""
        return self.training is not None and self.training.get("loss") in LOSSES_OF_LOGITS

    def train_config(self, file: Path) -> TrainConfig:
        """Parse the training options, which only a resumed run needs.

        Args:
            file: where the record was read, for error messages.
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
        """Return the batch size that `auto` was resolved to [tokens/batch].

        Args:
            file: where the record was read, for error messages.
        Raises:
            DirectoryError: batch_tokens is missing or unusable.
        """
        if not isinstance(self.batch_tokens, int) or self.batch_tokens < 1:
            raise DirectoryError(f"{file}: batch_tokens is {self.batch_tokens!r}", "Give --batch-tokens")
        return self.batch_tokens


_TEXTS = (  # read as text, whatever their JSON type
    *("source_lang", "target_lang", "subword", "source_sha256", "target_sha256", "training_sha256", "precision"),
)


def check_format(values: Mapping[str, Any], file: Path) -> None:
    """Check that a JSON object is the configuration of a model, of the version that this nmt reads.

    Raises:
        DirectoryError: the format or the version is another one.
    """
    if values.get("format") != FORMAT:
        raise DirectoryError(f"{file} is not the configuration of a model", "Name a directory that nmt train made")
    if values.get("version") != VERSION:
        raise DirectoryError(
            f"{file.parent} has version {values.get('version')} of the model format, but this nmt knows {VERSION}",
            "Use the nmt that made it",
        )
