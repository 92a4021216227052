"""What a config is made of: fields with a knob each, that know their bounds and how they are spelt as options."""

import dataclasses
import math
import typing
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from nmtcli.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class Knob:
    """What a field's metadata says beside its type and default.

    Args:
        help: one phrase, with the unit in brackets where there is one.
        at_least, at_most: inclusive bounds of a number.
        below: exclusive upper bound of a number.
        choices: the values allowed.
        short: a one-letter option.
        off: the option that turns a boolean off, where it is not `--no-<name>`.
        env: an environment variable that gives the default.
        argument: a positional argument of the command rather than an option.
        required: there is no default.
        may_change: a resumed training run may have another value than the run that it continues.
        auto: 0 is given, and shown, as `auto`.
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
    """A field of a config with its knob: `beam: int = opt(5, "hypotheses kept", at_least=1)`."""
    return field(default=default, metadata={"knob": Knob(help=help, **about)})


def knob_of(config_field: "dataclasses.Field[Any]") -> Knob:
    """The knob of a config's field."""
    knob = config_field.metadata["knob"]
    assert isinstance(knob, Knob)
    return knob


def option_name(field_name: str) -> str:
    """The spelling on the command line: `batch_tokens` is `--batch-tokens`."""
    return "--" + field_name.replace("_", "-")


def option_text(field_name: str, value: Any) -> str:
    """How a value is given on the command line.

    >>> option_text("bidirectional", False), option_text("encoder_layers", 1)
    ('--no-bidirectional', '--encoder-layers 1')
    """
    if isinstance(value, bool):
        return option_name(field_name if value else f"no_{field_name}")
    return f"{option_name(field_name)} {value}"


class Config:
    """What all configs share: bounds checked at construction, to and from plain dicts."""

    __slots__ = ()
    __dataclass_fields__: ClassVar[dict[str, "dataclasses.Field[Any]"]]  # each config is a dataclass

    def __post_init__(self) -> None:
        types = typing.get_type_hints(type(self))
        for config_field in dataclasses.fields(self):
            check_value(
                config_field.name, getattr(self, config_field.name), types[config_field.name], knob_of(config_field)
            )

    def to_dict(self) -> dict[str, Any]:
        """The values as JSON has them; `from_dict` gives the same config back."""
        return {
            config_field.name: list(value) if isinstance(value := getattr(self, config_field.name), tuple) else value
            for config_field in dataclasses.fields(self)
        }

    @classmethod
    def with_presets(cls, values: dict[str, Any], given: Collection[str]) -> dict[str, Any]:
        """The values of all fields, where a field that was not given may follow from another's value.

        Args:
            values: by field, defaults included.
            given: the fields that the command line, a recipe or the environment set.
        """
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> typing.Self:
        """A config from JSON values; keys that are missing take their default, keys unknown here are an error.

        Raises:
            ConfigError: an unknown key, or a value of the wrong type or out of bounds.
        """
        known = {config_field.name for config_field in dataclasses.fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ConfigError(f"{cls.__name__} has no key `{unknown[0]}`", "It may come from a newer version of nmt")
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


def check_value(name: str, value: Any, declared: Any, knob: Knob) -> None:
    """Sees to it that a field may have this value.

    Raises:
        ConfigError: wrong type, not among the choices, not finite or out of bounds.
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
