"""What `nmt preprocess --append` keeps of a data directory, and what it adds."""

import dataclasses
from typing import Any

from nmtcli.config import PreprocessConfig
from nmtcli.data.corpus import HASHES, DataDirectory
from nmtcli.errors import ConfigError, DirectoryError
from nmtcli.knobs import option_name, option_text

WITHOUT_INFLUENCE = ("data", "workers", "engine", "ray_address", "overwrite", "append")  # on what is written
FREE = ("train", "max_length", "max_ratio", "dedup")  # with --append


def influential(config: PreprocessConfig) -> dict[str, Any]:
    """The options that decide what is written."""
    return {name: value for name, value in config.to_dict().items() if name not in WITHOUT_INFLUENCE}


def check_same_options(config: PreprocessConfig, old: DataDirectory) -> None:
    """With --append languages, vocabularies and texts are those of the directory.

    Raises:
        ConfigError: an option says otherwise.
        DirectoryError: duplicates are to be found among pairs whose hashes are not there.
    """
    stored, defaults = old.meta.get("config"), _defaults()
    stored = {**defaults, **(stored if isinstance(stored, dict) else {})}
    stored |= {"source_lang": old.source_lang, "target_lang": old.target_lang}
    for name, value in influential(config).items():
        if name not in FREE and value not in (stored[name], defaults[name]):
            raise ConfigError(
                f"--append keeps what {config.data} has, which is {option_text(name, stored[name])}, but now "
                f"{option_name(name)} is {value}",
                "Leave it out",
            )
    if config.dedup and not (old.path / HASHES).exists():
        raise DirectoryError(
            f"{config.data} was made without --dedup, so that its pairs are not known any more",
            "Leave --dedup out, or run nmt preprocess again with all texts",
        )


def _defaults() -> dict[str, Any]:
    """The defaults of all options, as JSON has them; no languages."""
    return {
        config_field.name: list(config_field.default) if config_field.default == () else config_field.default
        for config_field in dataclasses.fields(PreprocessConfig)
    }


def added(old: DataDirectory, facts: dict[str, Any]) -> dict[str, Any]:
    """The facts of a directory with more pairs."""
    meta = old.meta
    cleaning = {rule: meta["cleaning"].get(rule, 0) + count for rule, count in facts["cleaning"].items()}
    kept = {name: meta[name] for name in ("subword", "joint", "user_words", "config")}
    return (
        facts
        | kept
        | {
            "pairs": meta["pairs"] + facts["pairs"],
            "corpora": [*old.corpora, *facts["corpora"]],
            "cleaning": cleaning,
            "appended": [*meta.get("appended", []), facts["config"]],
        }
    )
