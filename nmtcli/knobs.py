"""Building blocks of configs: each field has a knob, which holds its help text, bounds and spelling as an option."""

import dataclasses
import math
import typing
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from nmtcli.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class Knob:
    """Metadata of a config field, in addition to its type and default.

    Args:
        help: help text: one phrase, with the unit, if any, in brackets.
        at_least, at_most: inclusive bounds of a number.
        below: exclusive upper bound of a number.
        choices: allowed values; empty: any value.
        short: one-letter spelling of the option; empty: none.
        off: option that turns a boolean off; empty: `--no-<name>`.
        env: environment variable that overrides the default; empty: none.
        argument: True if the field is a positional argument, not an option.
        required: True if the option must be given; the field's default is then unused.
        may_change: True if a resumed training run may use another value.
        auto: True if the value 0 is entered and displayed as `auto`.
    """

    help: str
    at_least: float | None = None
    at_most: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()
    short: str = ""
    off: str = ""
    env: str = ""
    argument: bool = False
    required: bool = False
    may_change: bool = False
    auto: bool = False


def opt(default: Any, help: str, **about: Any) -> Any:
    """Make a config field, such as `beam: int = opt(5, "beam size", at_least=1)`; `about` holds arguments of `Knob`."""
    return field(default=default, metadata={"knob": Knob(help=help, **about)})


def knob_of(config_field: "dataclasses.Field[Any]") -> Knob:
    """Return the knob of a config field."""
    knob = config_field.metadata["knob"]
    assert isinstance(knob, Knob)
    return knob


def option_name(field_name: str) -> str:
    """Return the option for a field: `--batch-tokens` for `batch_tokens`."""
    return "--" + field_name.replace("_", "-")


def option_text(field_name: str, value: Any) -> str:
    """Return a field and its value as written on the command line.

    >>> option_text("bidirectional", False), option_text("encoder_layers", 1)
    ('--no-bidirectional', '--encoder-layers 1')
    """
    if isinstance(value, bool):
        return option_name(field_name if value else f"no_{field_name}")
    return f"{option_name(field_name)} {value}"


class Config:
    """Base class of configs: checks the values at construction, and converts configs to and from plain dicts."""

    __slots__ = ()
    __dataclass_fields__: ClassVar[dict[str, "dataclasses.Field[Any]"]]  # each config is a dataclass

    def __post_init__(self) -> None:
        types = typing.get_type_hints(type(self))
        for config_field in dataclasses.fields(self):
            check_value(
                config_field.name, getattr(self, config_field.name), types[config_field.name], knob_of(config_field)
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the values by field name, in JSON types; `from_dict` restores the same config."""
        return {
            config_field.name: list(value) if isinstance(value := getattr(self, config_field.name), tuple) else value
            for config_field in dataclasses.fields(self)
        }

    @classmethod
    def with_presets(cls, values: dict[str, Any], given: Collection[str]) -> dict[str, Any]:
        """Return `values`, with defaults replaced where they depend on other fields; this base class replaces none.

        Args:
            values: the value of each field, defaults included.
            given: fields that were set on the command line, in a recipe or in the environment; their values are not
                replaced.
        """
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> typing.Self:
        """Make a config from JSON values; missing keys take their defaults, and unknown keys are an error.

        Raises:
            ConfigError: a key is unknown, or a value has the wrong type or is out of bounds.
        """
        known = {config_field.name for config_field in dataclasses.fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ConfigError(f"{cls.__name__} has no key `{unknown[0]}`", "It may come from a newer version of nmt")
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


def check_value(name: str, value: Any, declared: Any, knob: Knob) -> None:
    """Check that a value is allowed for a field, given the field's declared type and knob.

    Raises:
        ConfigError: the value has the wrong type, is not among the choices, is not finite or is out of bounds.
    """
    option = name if knob.argument else option_name(name)
    kinds: dict[Any, tuple[type, ...]] = {int: (int,), float: (int, float), str: (str,), bool: (bool,)}
    items = value if isinstance(value, tuple) else (value,)
    item_type = str if typing.get_origin(declared) is tuple else declared
    for item in items:
        if not isinstance(item, kinds[item_type]) or (isinstance(item, bool) and item_type is not bool):
            raise ConfigError(f"{option} must be of type {item_type.__name__}, but is {item!r}")
        if knob.choices and item not in knob.choices:
            raise ConfigError(f"{option} must be one of {', '.join(knob.choices)}, but is {item}")
        if isinstance(item, (int, float)) and not isinstance(item, bool):
            if not math.isfinite(item):
                raise ConfigError(f"{option} must be a finite number, but is {item}")
            if knob.at_least is not None and item < knob.at_least:
                raise ConfigError(f"{option} must be at least {knob.at_least:g}, but is {item:g}")
            if knob.at_most is not None and item > knob.at_most:
                raise ConfigError(f"{option} must be at most {knob.at_most:g}, but is {item:g}")
            if knob.below is not None and item >= knob.below:
                raise ConfigError(f"{option} must be below {knob.below:g}, but is {item:g}")
