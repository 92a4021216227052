"""The record of a model: what is written comes back, and what is decided about keys is decided there."""

import json
from pathlib import Path
from typing import Any

import pytest

from nmtcli.config import ModelConfig, TrainConfig
from nmtcli.errors import DirectoryError
from nmtcli.store.record import ModelRecord

FILE = Path("model/config.json")
RECORD = ModelRecord(
    source_lang="de",
    target_lang="en",
    subword="bpe",
    joint=True,
    source_size=300,
    target_size=300,
    source_sha256="a" * 64,
    target_sha256="b" * 64,
    training_sha256="c" * 64,
    model=ModelConfig(hidden_size=16),
    training=TrainConfig(loss="beam", candidates=3).to_dict(),
    precision="fp32",
    batch_tokens=2048,
)


def parsed(**changes: Any) -> ModelRecord:
    """The record with some keys of its JSON changed; None removes a key."""
    values = {**json.loads(json.dumps(RECORD.to_json())), **changes}
    return ModelRecord.from_json({name: value for name, value in values.items() if value is not None}, FILE)


def test_a_record_comes_back_from_its_json() -> None:
    assert parsed() == RECORD
    assert list(RECORD.to_json())[:4] == ["format", "version", "source_lang", "target_lang"]
    assert parsed().train_config(FILE) == TrainConfig(loss="beam", candidates=3)
    assert parsed().searches_by_logits


@pytest.mark.parametrize(
    "name",
    ["source_lang", "subword", "source_sha256", "training_sha256", "training", "precision", "batch_tokens"],
)
def test_a_key_that_translation_does_not_need_may_be_missing_and_stays_missing(name: str) -> None:
    record = parsed(**{name: None})
    assert getattr(record, name) is None
    assert name not in record.to_json()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("format", "nmtcli-data"),
        ("version", 2),
        ("joint", None),
        ("joint", 1),
        ("source_size", None),
        ("source_size", 0),
        ("target_size", "300"),
        ("target_size", (1 << 24) + 1),
        ("model", None),
        ("model", {"hidden_size": "large"}),
        ("model", {"wheels": 4}),
        ("model", [16]),
    ],
)
def test_a_record_that_no_model_can_be_made_of_is_refused(name: str, value: object) -> None:
    values = {**RECORD.to_json(), name: value}
    with pytest.raises(DirectoryError, match="model"):
        ModelRecord.from_json({key: item for key, item in values.items() if item is not None}, FILE)


@pytest.mark.parametrize("training", [None, [], {"wheels": 4}, {"batch_tokens": "many"}])
def test_training_options_that_are_unusable_are_refused_when_they_are_asked_for(training: object) -> None:
    record = parsed(training=training)
    assert not record.searches_by_logits
    with pytest.raises(DirectoryError, match=r"model/config\.json has no usable training configuration"):
        record.train_config(FILE)


@pytest.mark.parametrize("tokens", [None, "many", 0, 1.5])
def test_a_batch_size_that_is_unusable_is_refused_when_it_is_asked_for(tokens: object) -> None:
    with pytest.raises(DirectoryError, match=r"config\.json: batch_tokens is"):
        parsed(batch_tokens=tokens).resolved_batch_tokens(FILE)
    assert parsed(batch_tokens=17).resolved_batch_tokens(FILE) == 17


def test_unknown_keys_are_kept_when_a_record_is_written_again() -> None:
    record = parsed(note="of a later version", source_lang=7)
    assert record.to_json()["note"] == "of a later version"
    assert record.direction == "7 to en"


def test_a_model_from_before_attention_had_a_scale_is_not_scaled() -> None:
    model = RECORD.model.to_dict()
    del model["scale_attention"]
    assert not parsed(model=model).model.scale_attention
