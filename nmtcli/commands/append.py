"""`nmt preprocess --append`: the options that must match the data directory, and the update of its meta.json."""

import dataclasses
from typing import Any

from nmtcli.config import PreprocessConfig
from nmtcli.data.corpus import HASHES, DataDirectory
from nmtcli.errors import ConfigError, DirectoryError
from nmtcli.knobs import option_name, option_text

WITHOUT_INFLUENCE = ("data", "workers", "engine", "ray_address", "overwrite", "append")  # on the files written
FREE = ("train", "max_length", "max_ratio", "dedup")  # these may differ with --append


def influential(config: PreprocessConfig) -> dict[str, Any]:
    """Return the names and values of the options that affect the files written."""
    return {name: value for name, value in config.to_dict().items() if name not in WITHOUT_INFLUENCE}


def check_same_options(config: PreprocessConfig, old: DataDirectory) -> None:
    """Check that the options given with --append match the options that the directory was made with.

    Options that are left at their defaults, and the options in FREE, are not compared.

    Raises:
        ConfigError: an option does not match.
        DirectoryError: --dedup is given, but the directory has no hashes of its pairs.
    """
    stored, defaults = old.meta.get("config"), _defaults()
    stored = {**defaults, **(stored if isinstance(stored, dict) else {})}
    stored |= {"source_lang": old.source_lang, "target_lang": old.target_lang}
    for name, value in influential(config).items():
        if name not in FREE and value not in (stored[name], defaults[name]):
            raise ConfigError(
                f"{config.data} was made with {option_text(name, stored[name])}, which --append keeps, but "
                f"{option_name(name)} is {value}",
                "Leave it out",
            )
    if config.dedup and not (old.path / HASHES).exists():
        raise DirectoryError(
            f"{config.data} was made without --dedup, so it has no hashes to find duplicates by",
            "Leave --dedup out, or run nmt preprocess again with all texts",
        )


def _defaults() -> dict[str, Any]:
    """Return the default of each option, as JSON stores it; the default of a required option is empty."""
    return {
        config_field.name: list(config_field.default) if config_field.default == () else config_field.default
        for config_field in dataclasses.fields(PreprocessConfig)
    }


def added(old: DataDirectory, facts: dict[str, Any]) -> dict[str, Any]:
    """Merge `facts`, the entries for the appended pairs, into the meta.json of `old`; return the new meta.json."""
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
