"""The `nmt` command: parse options into configs, call the command's module and report errors.

This module does not import torch.
"""

import atexit
import errno
import json
import os
import sys
import time
from collections.abc import Sequence
from typing import NoReturn

import click

from nmtcli import __version__
from nmtcli.config import (
    ARCHITECTURE_SOURCES,
    ARCHITECTURES,
    LOSSES,
    ModelConfig,
    PreprocessConfig,
    ScoreConfig,
    SearchConfig,
    TrainConfig,
    TranslateConfig,
)
from nmtcli.console import Console
from nmtcli.errors import ConfigError, NmtError, Stopped
from nmtcli.knobs import option_text
from nmtcli.options import Given, command
from nmtcli.ranks import RankEnvironment, environment

READER_GONE = 141  # exit code that a shell reports for a filter whose reader closed the pipe: 128 + SIGPIPE
SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


def architectures_help() -> str:
    """Return a description of each --arch and the defaults that it sets, for the end of the help text."""
    lines = ["\b", "Architectures, with the defaults that each sets:"]
    for name, source in ARCHITECTURE_SOURCES.items():
        lines.append(f"  {name:10} {source}")
        if presets := ARCHITECTURES[name]:
            lines.append(f"  {'':10}   {' '.join(option_text(field, value) for field, value in presets.items())}")
    return "\n".join(lines)


def losses_help() -> str:
    """Return a description of each --loss, for the end of the help text."""
    return "\n".join(["\b", "Losses:", *(f"  {name:14} {meaning}" for name, meaning in LOSSES.items())])


@click.group(context_settings=SETTINGS)
@click.version_option(__version__, prog_name="nmt")
def nmt() -> None:
    """LSTM neural machine translation, from raw parallel text to translations.

    \b
    nmt preprocess -s de -t en --train corpus/train --valid corpus/val
    nmt train
    nmt translate < input.txt > output.txt
    nmt score --ref ref.txt < output.txt
    """


@nmt.command(short_help="Prepare raw parallel text for training.")
@command(PreprocessConfig)
def preprocess(console: Console, _: Given, config: PreprocessConfig) -> None:
    """Prepare raw parallel text for training: clean it, learn a vocabulary, encode it (-> data-bin).

    \b
    Example: nmt preprocess -s de -t en --train corpus/train --valid corpus/val --test corpus/test
    """
    from nmtcli.commands.preprocess import run as run_preprocess

    run_preprocess(config, console)


@nmt.command(short_help="Train a model.", epilog=f"{architectures_help()}\n\n{losses_help()}")
@command(ModelConfig, TrainConfig)
def train(console: Console, given: Given, model_config: ModelConfig, config: TrainConfig) -> None:
    """Train a model on a data directory (data-bin -> model).

    \b
    Example: nmt train --batch-tokens 4096 --dropout 0.2 --time-limit 60
             nmt train --resume
    """
    from nmtcli.commands.train import run as run_train

    run_train(model_config, config, given.names, given.arguments, console)


@nmt.command(short_help="Translate text, line by line.")
@command(SearchConfig, TranslateConfig)
def translate(console: Console, _: Given, search_config: SearchConfig, config: TranslateConfig) -> None:
    """Translate text to stdout: one output line for each input line, in the same order.

    \b
    Example: nmt translate --beam 5 < input.txt > output.txt
    """
    from nmtcli.commands.translate import run as run_translate

    run_translate(search_config, config, console)


@nmt.command(short_help="Score translations with BLEU, chrF2 and TER.")
@command(ScoreConfig)
def score(console: Console, _: Given, config: ScoreConfig) -> None:
    """Score translations against references with BLEU, chrF2 and TER, each with its signature.

    \b
    Example: nmt score --ref ref.txt < output.txt
             nmt score --ref ref.txt --target-lang zh system1.txt system2.txt
             nmt score --model model --source src.txt --ref ref.txt
    """
    from nmtcli.commands.score import run as run_score

    run_score(config, console)


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code (see errors.py); exceptions caused by bugs propagate."""
    try:
        # Do not call nmt.main(), which exits with 1 on a broken pipe.
        with nmt.make_context("nmt", list(arguments), obj=tuple(arguments)) as context:
            nmt.invoke(context)
        sys.stdout.flush()
    except click.exceptions.Exit as done:  # --help, --version
        return done.exit_code
    except Stopped as stopped:
        print(stopped, file=sys.stderr, flush=True)
        return stopped.exit_code
    except NmtError as error:
        return _fail(str(error), error.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return 2
    except click.ClickException as error:
        return _fail(error.format_message(), 2)
    except (KeyboardInterrupt, click.Abort):
        return _fail("Interrupted.", 130)
    except BrokenPipeError:
        _forget_stdout()
        return READER_GONE
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EACCES, errno.EPERM, errno.EROFS, errno.EDQUOT, errno.EIO):
            raise
        _forget_stdout()
        place = f"{error.filename}: " if error.filename else ""
        return _fail(f"{place}{error.strerror}.", 6)
    return 0


def main() -> None:
    """Entry point of the package: run `nmt` with this process's arguments, then exit."""
    code = run(sys.argv[1:])
    if _ranks().world_size > 1:
        end_rank(code)
    sys.exit(code)


def end_rank(code: int) -> NoReturn:
    """Exit a process of distributed training without finalising the interpreter.

    The threads of DistributedDataParallel's process group outlive the group. If one of them frees a tensor during
    finalisation, it requests the interpreter's lock; the interpreter then terminates the thread, which aborts the
    process although all work is complete.
    """
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _fail(message: str, code: int) -> int:
    message = " ".join(message.split())
    ranks = _ranks()
    if ranks.error_file:  # the launcher prints the first error of its processes
        with open(ranks.error_file, "w", encoding="utf-8") as file:
            json.dump({"message": {"message": message, "extraInfo": {"timestamp": str(int(time.time()))}}}, file)
    elif ranks.world_size > 1:
        print(f"Error: rank {ranks.rank} on {os.uname().nodename}: {message}", file=sys.stderr, flush=True)
    else:
        print(f"Error: {message}", file=sys.stderr, flush=True)
    return code


def _ranks() -> RankEnvironment:
    """Return the settings from the launcher, or the defaults if they are invalid; `nmt train` reports that error."""
    try:
        return environment()
    except ConfigError:
        return RankEnvironment()


def _forget_stdout() -> None:
    """Redirect stdout to /dev/null, so that Python's flush at exit does not fail again."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        pass
