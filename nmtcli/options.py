"""Make click options from dataclasses, and read their defaults from a TOML recipe.

Precedence: the field's default < the environment variable < `--config recipe.toml` < the option itself.
"""

import dataclasses
import difflib
import functools
import tomllib
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from nmtcli import config
from nmtcli.console import Console
from nmtcli.errors import ConfigError
from nmtcli.knobs import Config, check_value, knob_of, option_name

TABLES: dict[str, tuple[type[Config], ...]] = {
    "preprocess": (config.PreprocessConfig,),
    "model": (config.ModelConfig,),
    "train": (config.TrainConfig,),
    "translate": (config.SearchConfig, config.TranslateConfig),
    "score": (config.ScoreConfig,),
}
AUTO = "auto"  # spelling of 0 for options where 0 lets the program choose
EXPECT = "expect"  # a recipe's table of expected scores; no command reads this table


@dataclasses.dataclass(frozen=True)
class Given:
    """How the command was called, beyond the values in its configs.

    Attributes:
        names: fields that were set on the command line, in the recipe or in the environment.
        arguments: all command-line arguments, as passed to `cli.run`.
    """

    names: frozenset[str]
    arguments: tuple[str, ...]


def command(*configs: type[Config]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that gives a click callback the options of these configs, `--config`, `-q` and `-v`.

    The callback is called as `callback(console, given, *built)`, where `built` holds one config for each class. The
    command-line arguments are read from the `obj` of click's context.
    """
    names = [config_field.name for cls in configs for config_field in dataclasses.fields(cls)]
    assert len(names) == len(set(names)), "two configs of one command share a field name"

    def decorate(callback: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(callback)
        def built_callback(**values: Any) -> None:
            context = click.get_current_context()
            console = Console(quiet=values.pop("quiet"), verbose=values.pop("verbose"))
            values.pop("config")
            sources = {name: context.get_parameter_source(name) for name in values}
            given = frozenset(name for name, source in sources.items() if source not in (ParameterSource.DEFAULT, None))
            built = [cls(**cls.with_presets(_values_of(cls, values), given)) for cls in configs]
            context.call_on_close(console.close)
            callback(console, Given(names=given, arguments=tuple(context.obj or ())), *built)

        decorated: Callable[..., Any] = built_callback
        for decorator in _shared_options(configs):
            decorated = decorator(decorated)
        for cls in reversed(configs):
            types = typing.get_type_hints(cls)
            for config_field in reversed(dataclasses.fields(cls)):
                decorated = _parameter(config_field, types[config_field.name])(decorated)
        return decorated

    return decorate


def _values_of(cls: type[Config], values: dict[str, Any]) -> dict[str, Any]:
    """Pick out the entries of `values` that are fields of `cls`."""
    return {config_field.name: values[config_field.name] for config_field in dataclasses.fields(cls)}


def _shared_options(configs: tuple[type[Config], ...]) -> list[Callable[..., Any]]:
    """Return decorators that add the options common to all commands, in the reverse of their order in the help text."""
    tables = [table for table, classes in TABLES.items() if set(classes) & set(configs)]
    return [
        click.option("-v", "--verbose", is_flag=True, help="Print more messages to stderr."),
        click.option("-q", "--quiet", is_flag=True, help="Print only warnings and errors to stderr."),
        click.option(
            "--config",
            metavar="RECIPE.TOML",
            is_eager=True,
            callback=functools.partial(_read_recipe, tables=tables),
            help=f"Read defaults from the tables {', '.join(f'[{table}]' for table in tables)} of a TOML file.",
        ),
    ]


class _IntegerOrAuto(click.types.IntParamType):
    """Click type for an integer or `auto`, which stands for 0."""

    name = "integer|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        return 0 if value == AUTO else int(click.INT.convert(value, param, ctx))


class _Option(click.Option):
    """An option for which the recipe takes precedence over the environment variable.

    The environment variable holds a single value, which may contain spaces, even if the option is repeatable.
    """

    def value_from_envvar(self, ctx: click.Context) -> Any:
        if self.name in (ctx.default_map or {}):
            return None
        value = self.resolve_envvar_value(ctx)
        return (value,) if self.multiple and value is not None else value


def _parameter(config_field: "dataclasses.Field[Any]", declared: Any) -> Callable[..., Any]:
    knob = knob_of(config_field)
    name = config_field.name
    many = typing.get_origin(declared) is tuple
    kind: Any = click.Choice(knob.choices) if knob.choices else (str if many else declared)
    if knob.auto:
        kind = _IntegerOrAuto()
    if knob.argument:
        return click.argument(name, nargs=-1, type=kind, metavar=f"[{name.upper()}]...")
    spellings = [option_name(name)]
    if declared is bool:
        spellings = [f"{spellings[0]}/{knob.off or '--no-' + name.replace('_', '-')}"]
    if knob.short:
        spellings.insert(0, f"-{knob.short}")
    plain = knob.required or config_field.default in ((), "")
    return click.option(
        *spellings,
        name,
        cls=_Option,
        type=None if declared is bool else kind,
        metavar="[INTEGER|auto]" if knob.auto else None,
        multiple=many,
        required=knob.required,
        **(
            {}
            if knob.required
            else {"default": (knob.auto and not config_field.default and AUTO) or config_field.default}
        ),
        envvar=knob.env or None,
        show_default=not plain,
        show_envvar=bool(knob.env),
        help=knob.help + (" (repeatable)" if many else ""),
    )


def _read_recipe(context: click.Context, _: click.Parameter, path: str | None, *, tables: list[str]) -> str | None:
    """Check all tables of a recipe, and put the values for this command into click's default map.

    Args:
        tables: names of the tables that this command reads.
    Raises:
        ConfigError: the file cannot be read, is not valid TOML, or has an unknown table or an invalid value.
    """
    if path is None:
        return None
    try:
        recipe = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--config {path} cannot be read ({error.strerror})", "Name a TOML file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}", "Correct the file") from error
    defaults: dict[str, Any] = {}
    for table, values in recipe.items():
        if table == EXPECT:
            continue
        if table not in TABLES or not isinstance(values, dict):
            raise ConfigError(f"{path} has an unknown table [{table}]", f"{_suggestion(table, list(TABLES))}")
        checked = _checked_table(path, table, values)
        if table in tables:
            defaults |= checked
    context.default_map = {**(context.default_map or {}), **defaults}
    return path


def _checked_table(path: str, table: str, values: dict[str, Any]) -> dict[str, Any]:
    """Check the values in a recipe's table; return the values by field name.

    `auto` is converted to 0, and a single value of a repeatable option to a tuple.

    Raises:
        ConfigError: a key is unknown, or its value is invalid.
    """
    known = {config_field.name: config_field for cls in TABLES[table] for config_field in dataclasses.fields(cls)}
    types = {name: declared for cls in TABLES[table] for name, declared in typing.get_type_hints(cls).items()}
    checked = {}
    for name, value in values.items():
        if name not in known:
            raise ConfigError(f"{path}: [{table}] has no option `{name}`", _suggestion(name, list(known)))
        if typing.get_origin(types[name]) is tuple:  # `model = "m"` is short for `model = ["m"]`
            value = tuple(value) if isinstance(value, list) else (value,)
        if knob_of(known[name]).auto and value == AUTO:
            value = 0
        try:
            check_value(name, value, types[name], knob_of(known[name]))
        except ConfigError as error:
            raise ConfigError(f"{path}: [{table}] {error.what}", error.mend) from error
        checked[name] = value
    return checked


def _suggestion(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"Did you mean `{close[0]}`?" if close else f"Known are {', '.join(f'`{one}`' for one in known)}"
