"""Console and TensorBoard output of `nmt train`: at the start, during training, and for a dry run."""

from typing import TYPE_CHECKING, Any

from nmtcli.commands.machine import FreedMemory
from nmtcli.config import TrainConfig
from nmtcli.console import Bar, Console
from nmtcli.data.batches import Batch
from nmtcli.data.corpus import DataDirectory
from nmtcli.errors import ConfigError
from nmtcli.training.assembly import Parts
from nmtcli.training.estimate import Estimate
from nmtcli.training.progress import Progress
from nmtcli.training.validation import Validation

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


def introduce(console: Console, parts: Parts, data: DataDirectory) -> None:
    """Report the model, the data and the machine before training starts."""
    machine, progress, ranks = parts.machine, parts.state.progress, parts.world.size
    parameters = sum(parameter.numel() for parameter in parts.state.model.parameters())
    console.info(
        f"{data.source_lang} to {data.target_lang}, {len(data.train):,} training pairs, {len(data.valid):,} validation "
        f"pairs; {parameters:,} parameters, {machine.precision} on {machine.device}, {machine.threads} threads"
    )
    if progress.update:
        console.info(f"Going on at update {progress.update:,}, epoch {progress.epoch + 1}")
    if ranks > 1:
        tokens = parts.batch_tokens * parts.config.accumulate * ranks
        console.info(f"{ranks} ranks; {tokens:,} tokens per update, including padding")


def show_plan(console: Console, config: TrainConfig, plan: Estimate, precision: str) -> None:
    """Report the estimated cost of training, for a dry run."""
    sentences, source, target = plan.largest
    megabytes = {
        "weights": plan.weights,
        "gradients": plan.gradients,
        "optimiser": plan.optimizer,
        f"largest batch ({sentences:,} pairs, {source:,} and {target:,} positions)": plan.activations,
        "together": plan.memory,
    }
    console.info(f"{plan.parameters:,} parameters, {precision}; memory, at least [MB]:")
    for what, size in megabytes.items():
        console.info(f"    {size / 1e6:10,.1f}  {what}")
    console.info(
        f"{plan.updates_per_epoch:,} updates per epoch, {plan.padding:.1%} of the positions are padding; "
        f"{plan.tokens_per_second:,.0f} source and target tokens per second"
    )
    ends = [config.max_updates] if config.max_updates else []
    ends += [config.max_epochs * plan.updates_per_epoch] if config.max_epochs else []
    updates = min(ends, default=plan.updates_per_epoch)
    sooner = [name for name, limit in (("--patience", config.patience), ("--time-limit", config.time_limit)) if limit]
    unless = f"; {' or '.join(sooner)} may end it sooner" if sooner else ""
    console.info(
        f"{plan.seconds_per_update * updates / 60:,.1f} minutes for {updates:,} updates, without validations{unless}"
    )


def tensorboard() -> "type[SummaryWriter]":
    """Return the class that writes events for TensorBoard.

    Raises:
        ConfigError: TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ConfigError("--tensorboard needs TensorBoard", 'Run pip install "nmtcli[tensorboard]"') from error
    return SummaryWriter


class Reporter:
    """Reports the events of the training loop on the console and to TensorBoard.

    Args:
        console: for messages.
        bar: the progress bar.
        board: writer for TensorBoard; None without --tensorboard.
        config: options of the run.
        ranks: number of ranks.
    """

    def __init__(
        self, console: Console, bar: Bar, board: "SummaryWriter | None", config: TrainConfig, ranks: int
    ) -> None:
        self._ranks = ranks
        self._console = console
        self._bar = bar
        self._board = board
        self._config = config
        self._facts = ""
        self._memory = FreedMemory()

    def updated(self, progress: Progress, batches_per_epoch: int) -> None:
        """Advance the progress bar, and return freed memory to the operating system if due."""
        self._memory.after_batch()
        total = self._total(progress, batches_per_epoch)
        self._bar.update(completed=progress.update, total=total, facts=f"epoch {progress.epoch + 1}  {self._facts}")

    def logged(self, record: dict[str, Any]) -> None:
        """Show a log line beside the progress bar or, without a terminal, as a message; send it to TensorBoard too."""
        self._facts = (
            f"loss {record['loss']:.3f}  lr {record['learning_rate']:.2g}  {record['tokens_per_second']:,.0f} tokens/s"
        )
        self._scalars("train", record, ("loss", "nll", "learning_rate", "gradient_norm", "tokens_per_second"))
        if not self._console.is_terminal:
            self._console.info(f"update {record['update']:,}  epoch {record['epoch'] + 1}  {self._facts}")

    def validated(self, record: dict[str, Any], validation: Validation) -> None:
        """Report the scores and the sample translations from a validation."""
        what = f"average of {len(record['averaged'])} checkpoints" if "averaged" in record else "validation"
        best = " (best)" if record.get("best") else ""
        self._console.info(
            f"{what} at update {record['update']:,}: loss {validation.loss:.3f}, perplexity "
            f"{validation.perplexity:.2f}, BLEU {validation.bleu.value:.2f}, chrF {validation.chrf.value:.2f}{best}"
        )
        for sample in validation.samples:
            self._console.info(f"    source      {sample.source}")
            self._console.info(f"    reference   {sample.reference}")
            self._console.info(f"    hypothesis  {sample.hypothesis}")
        self._scalars("validation", record, ("loss", "perplexity", "bleu", "chrf"))

    def skipped(self, update: int, norm: float) -> None:
        """Warn that an update was skipped because its gradient was not finite."""
        self._console.warn(f"update {update:,} was skipped: its gradient norm is {norm}")

    def split(self, update: int, batch: Batch) -> None:
        """Warn that a batch does not fit in memory and is cut in two."""
        self._console.warn(
            f"update {update:,}: a batch of {len(batch.source_BS):,} pairs does not fit in memory and is cut in two; a "
            f"lower --batch-tokens saves the time this takes"
        )

    def save_failed(self, update: int, error: OSError) -> None:
        """Warn that a file could not be saved, and that training goes on."""
        self._console.warn(f"update {update:,} could not be saved ({error.strerror}); training goes on")

    def _scalars(self, kind: str, record: dict[str, Any], names: tuple[str, ...]) -> None:
        if self._board is not None:
            for name in (name for name in names if record[name] is not None):
                self._board.add_scalar(f"{kind}/{name}", record[name], record["update"])

    def _total(self, progress: Progress, batches_per_epoch: int) -> int | None:
        config = self._config
        per_epoch = -(-batches_per_epoch // (config.accumulate * self._ranks))
        ends = [config.max_updates] if config.max_updates else []
        if config.max_epochs:
            ends.append(config.max_epochs * per_epoch)
        if config.time_limit and progress.update:
            ends.append(round(progress.update * 60 * config.time_limit / max(progress.seconds, 1e-9)))
        return min(ends) if ends else None
