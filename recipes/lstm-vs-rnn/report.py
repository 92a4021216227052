"""Make the table and the plots of a grid that run.sh has trained.

    python report.py WORK OUTDIR

reads WORK/<corpus>/<column>-<cell>-<seed>/ (model/, output.<target>, score.json) and writes, for each corpus,

    OUTDIR/<corpus>.md               table: mean, deviation, paired bootstrap against the LSTM
    OUTDIR/<corpus>-updates.png      BLEU on the development set over updates
    OUTDIR/<corpus>-lengths.png      BLEU on the test set by source length
    OUTDIR/<corpus>-gradients.png    gradient norm at a source position over its distance from the output
    OUTDIR/<corpus>-gates.png        the three gates of the LSTM encoder over one sentence
    OUTDIR/<corpus>-attention.png    attention weights of the LSTM for one sentence

Unfinished runs are left out, so that the report can be made while the grid trains. nmtcli/model/__init__.py explains
the suffixes of tensor names.
"""

import argparse
import json
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib import font_manager
from matplotlib import pyplot as plt
from torch import Tensor
from torch.nn import functional as F

from nmtcli.config import SearchConfig
from nmtcli.data.batches import Batch, padded
from nmtcli.data.corpus import DataDirectory
from nmtcli.model.cells import LSTMGates, lstm_cell, zero_state
from nmtcli.model.encoder import gather_positions, reversal
from nmtcli.model.seq2seq import Seq2Seq
from nmtcli.scoring.metrics import tokenizer_for
from nmtcli.search.host import SearchRules
from nmtcli.search.model_searcher import ModelSearcher
from nmtcli.search.translator import LineTranslator, SubwordPair
from nmtcli.store.reader import StoredModel

sys.path.insert(0, str(Path(__file__).parents[1]))
from seeds import bleu_of, lines_of, mean_bleu, paired_bootstrap, sentence_statistics, spread

mpl.use("Agg")
COLUMNS = {"fixed": "fixed vector", "attention": "attention"}
CELLS = {"rnn": "plain RNN", "gru": "GRU", "lstm": "LSTM"}
COLORS = {"rnn": "#d55e00", "gru": "#009e73", "lstm": "#0072b2"}  # safe for the colour-blind
STYLES = {"fixed": "--", "attention": "-"}
BINS = 5  # bins of source lengths, with equal numbers of sentences
LONGEST = 32  # longest sentences of the development set, whose gradients are measured
PIECES = 12  # length of the sentence whose gates and attention are shown [subwords]
CJK_FONTS = ("Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "WenQuanYi Zen Hei", "Noto Sans SC")


@dataclass(frozen=True)
class Run:
    """A finished run of the grid."""

    folder: Path
    column: str
    cell: str
    seed: int

    @cached_property
    def model(self) -> StoredModel:
        """The run's model directory."""
        return StoredModel.open(str(self.folder / "model"))

    @cached_property
    def log(self) -> list[dict[str, Any]]:
        """The records of the training log."""
        return [json.loads(line) for line in lines_of(self.folder / "model" / "log.jsonl")]

    @cached_property
    def scores(self) -> dict[str, Any]:
        """The output of `nmt score --json` for the translations, by metric."""
        report = json.loads((self.folder / "score.json").read_text(encoding="utf-8"))
        scores: dict[str, Any] = report["systems"][0]["scores"]
        return scores

    @property
    def validations(self) -> list[tuple[int, float]]:
        """Pairs of update and BLEU on the development set."""
        return [(record["update"], record["bleu"]) for record in self.log if record["kind"] == "validation"]


class Corpus:
    """The runs of one corpus, and its test set."""

    def __init__(self, folder: Path) -> None:
        self.name = folder.name
        _, source, target = folder.name.rsplit("-", 2)
        self.data = DataDirectory.open(folder / "data-bin")
        self.sources = lines_of(folder / f"test.{source}")
        self.references = lines_of(folder / f"test.{target}")
        self.tokenizer = tokenizer_for(target)
        self.runs: dict[tuple[str, str], list[Run]] = {}
        for column in COLUMNS:
            for cell in CELLS:
                done = sorted(path.parent for path in folder.glob(f"{column}-{cell}-*/score.json"))
                if done:
                    self.runs[column, cell] = [
                        Run(path, column, cell, int(path.name.rsplit("-", 1)[1])) for path in done
                    ]
        self.statistics = {
            system: np.stack(
                [
                    sentence_statistics(lines_of(run.folder / f"output.{target}"), self.references, self.tokenizer)
                    for run in runs
                ]
            )
            for system, runs in self.runs.items()
        }


def table(corpus: Corpus) -> str:
    """Format the Markdown table of one corpus, with a row for each system."""
    lines = [
        "| | cell | width | parameters | without embeddings | seeds | test BLEU | test chrF2 | BLEU against LSTM | p "
        "| dev BLEU | gain in the last fifth |",
        "|" + "---|" * 12,
    ]
    for (column, cell), runs in corpus.runs.items():
        model = runs[0].model.new_model()
        parameters = sum(parameter.numel() for parameter in model.parameters())
        statistics = corpus.statistics[column, cell]
        against = p_value = ""
        if cell != "lstm" and (column, "lstm") in corpus.runs:
            lstm = corpus.statistics[column, "lstm"]
            against = f"{mean_bleu(statistics) - mean_bleu(lstm):+.2f}"
            p_value = f"{paired_bootstrap(statistics, lstm):.3f}"
        development = [dict(run.validations) for run in runs]
        last = max(development[0])
        before = max(update for update in development[0] if update <= 0.8 * last)
        cells = [
            COLUMNS[column],
            CELLS[cell],
            str(runs[0].model.record.model.hidden_size),
            f"{parameters:,}",
            f"{parameters - embedding_parameters(model):,}",
            str(len(runs)),
            spread([run.scores["BLEU"]["score"] for run in runs]),
            spread([run.scores["chrF2"]["score"] for run in runs]),
            against,
            p_value,
            spread([one[last] for one in development]),
            f"{np.mean([one[last] - one[before] for one in development]):+.2f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    some = next(iter(corpus.runs.values()))[0].scores
    lines += ["", ", ".join(f"{metric}: `{some[metric]['signature']}`" for metric in ("BLEU", "chrF2"))]
    return "\n".join(lines) + "\n"


def embedding_parameters(model: Seq2Seq) -> int:
    """Count the parameters that depend on vocabulary sizes: embeddings, output projection and its bias."""
    parts = [model.source_embedding, model.target_embedding, model.projection]
    in_matrices = sum(parameter.numel() for part in parts if part is not None for parameter in part.parameters())
    return in_matrices + model.projection_bias_V.numel()


def gradient_norms(model: Seq2Seq, batch: Batch, outputs: int) -> Tensor:
    """Compute norms_BTS of the gradients of each output's loss: |d(-log p(target_t)) / d(embedded source_s)|.

    Args:
        model: in eval mode.
        batch: on the model's device.
        outputs: T, the number of first target positions to use.
    """
    embedded: list[Tensor] = []
    hook = model.encoder.register_forward_pre_hook(lambda _, inputs: embedded.append(inputs[0]))
    memory, state = model.encode(batch.source_BS, batch.source_mask_BS)
    hook.remove()
    readout_BTE = model.decode(memory, state, batch.target_input_BT[:, :outputs])
    norms = []
    for position in range(outputs):
        logits_BV = model.logits(readout_BTE[:, position])
        nll = F.cross_entropy(logits_BV, batch.target_output_BT[:, position], reduction="sum")
        norms.append(torch.autograd.grad(nll, embedded[0], retain_graph=True)[0].norm(dim=-1))
    return torch.stack(norms, dim=1)


def norms_by_distance(model: Seq2Seq, batch: Batch) -> tuple[list[int], list[float]]:
    """Compute the mean gradient norm for each number of recurrent steps between a source position and an output.

    The source is read from its end, so source position s and target position t, both from 0, are s + t + 1 steps apart.
    Only positions that exist in every sentence of the batch are used.
    """
    shortest = int(torch.minimum(batch.source_mask_BS.sum(dim=1), batch.target_mask_BT.sum(dim=1)).min())
    norms_TS = gradient_norms(model, batch, shortest)[:, :, :shortest].mean(dim=0)
    distances_TS = torch.arange(shortest).unsqueeze(1) + torch.arange(shortest) + 1
    distances = list(range(1, 2 * shortest))
    return distances, [float(norms_TS[distances_TS == distance].mean()) for distance in distances]


def lstm_gates(model: Seq2Seq, source_BS: Tensor) -> tuple[LSTMGates, Tensor]:
    """Compute the gates of the first right-to-left encoder layer, in reading order.

    Args:
        model: with LSTM cells, in eval mode.
        source_BS: one sentence, EOS at the end.
    Returns:
        the gates, each of shape (steps, H), and the layer's output_SH, equal to that of the fused kernel.
    """
    lengths_B = torch.tensor([source_BS.shape[1]])
    embedded: list[Tensor] = []
    hook = model.encoder.register_forward_pre_hook(lambda _, inputs: embedded.append(inputs[0]))
    model.encode(source_BS, torch.ones_like(source_BS, dtype=torch.bool))
    hook.remove()
    read_BSE = gather_positions(embedded[0], reversal(lengths_B, source_BS.shape[1]))
    layer = model.encoder.backward_layers[0]
    state = zero_state(read_BSE.new_zeros(1, layer.kernel.hidden_size), layer.cell)
    steps, outputs = [], []
    for position in range(read_BSE.shape[1]):
        state, gates = lstm_cell(read_BSE[:, position], state, layer.weights())
        steps.append(gates)
        outputs.append(state.hidden_NH)
    return LSTMGates(*(torch.cat(values) for values in zip(*steps, strict=True))), torch.cat(outputs)


def draw_updates(corpus: Corpus, path: Path) -> None:
    """Plot BLEU on the development set over updates: mean and range of the seeds."""
    figure, axes = plt.subplots(figsize=(7, 4.5))
    for (column, cell), runs in corpus.runs.items():
        updates = [update for update, _ in runs[0].validations]
        values = np.array([[bleu for _, bleu in run.validations] for run in runs])
        axes.plot(updates, values.mean(axis=0), STYLES[column], color=COLORS[cell], label=label(column, cell))
        axes.fill_between(updates, values.min(axis=0), values.max(axis=0), color=COLORS[cell], alpha=0.15, linewidth=0)
    finish(figure, axes, path, x="updates", y="BLEU on the development set (greedy)", title=corpus.name, beside=True)


def draw_lengths(corpus: Corpus, path: Path) -> None:
    """Plot BLEU on the test set by source length, in bins of equal numbers of sentences: mean and deviation."""
    source = corpus.data.source_subword
    lengths = np.array([len(ids) - 1 for ids in source.encode_many(corpus.sources)])
    bins = [one for one in np.array_split(np.argsort(lengths, kind="stable"), BINS) if len(one)]
    figure, axes = plt.subplots(figsize=(7, 4.5))
    for (column, cell), statistics in corpus.statistics.items():
        values = np.array([[bleu_of(one[chosen].sum(axis=0)) for chosen in bins] for one in statistics])
        deviation = values.std(axis=0, ddof=1) if len(values) > 1 else None
        axes.errorbar(
            range(len(bins)),
            values.mean(axis=0),
            deviation,
            linestyle=STYLES[column],
            color=COLORS[cell],
            marker="o",
            capsize=3,
            label=label(column, cell),
        )
    axes.set_xticks(range(len(bins)), [f"{lengths[chosen].min()}-{lengths[chosen].max()}" for chosen in bins])
    x = "pieces of the source (a fifth of the test set each)"
    finish(figure, axes, path, x=x, y="BLEU", title=corpus.name, beside=True)


def draw_gradients(corpus: Corpus, path: Path) -> None:
    """Plot the gradient norm over distance, before and after training, in one panel for each column."""
    sides = (corpus.data.source_subword, corpus.data.target_subword)
    sources, targets = (
        side.encode_many([pair[number] for pair in corpus.data.valid]) for number, side in enumerate(sides)
    )
    pairs = sorted(zip(sources, targets, strict=True), key=lambda pair: min(map(len, pair)))[-LONGEST:]
    batch = Batch.of(pairs)
    columns = [column for column in COLUMNS if any(column == one for one, _ in corpus.runs)]
    figure, panels = plt.subplots(1, len(columns), figsize=(5.5 * len(columns), 4.5), sharey=True, squeeze=False)
    for column, axes in zip(columns, panels[0], strict=True):
        for cell in CELLS:
            for run in corpus.runs.get((column, cell), [])[:1]:
                torch.manual_seed(run.seed)
                for model, style, when in (
                    (run.model.new_model(), ":", "before training"),
                    (run.model.read_model(), "-", "after"),
                ):
                    distances, norms = norms_by_distance(model.eval(), batch)
                    axes.plot(distances, norms, style, color=COLORS[cell], label=f"{CELLS[cell]}, {when}")
        axes.set_yscale("log")
        axes.set_title(f"{corpus.name}, {COLUMNS[column]}")
        axes.set_xlabel("recurrent steps between source position and output")
    finish(figure, panels[0][0], path, y="norm of the gradient at the source's embedding")


def draw_gates(corpus: Corpus, path: Path) -> None:
    """Plot forget, input and output gate of every unit of the LSTM encoder over one sentence."""
    run, line = example(corpus)
    source, _ = run.model.subwords()
    ids = source.encode(line)
    with torch.no_grad():
        gates, _ = lstm_gates(run.model.read_model().eval(), padded([ids])[0])
    order = gates.forget_NH.mean(dim=0).argsort(descending=True)
    figure, panels = plt.subplots(1, 3, figsize=(13, 5.5), sharey=True)
    for axes, name, values_NH in zip(
        panels,
        ("forget gate", "input gate", "output gate"),
        (gates.forget_NH, gates.input_NH, gates.output_NH),
        strict=True,
    ):
        image = axes.imshow(values_NH[:, order].T, aspect="auto", vmin=0, vmax=1, cmap="viridis", interpolation="none")
        axes.set_title(name)
        axes.set_xticks(range(len(ids)), readable(source.pieces(ids)[::-1]), rotation=90)
    panels[0].set_ylabel("units, by mean of the forget gate")
    figure.colorbar(image, ax=panels, fraction=0.02, pad=0.02, label="0: closed, 1: open")
    save(figure, path)


def draw_attention(corpus: Corpus, path: Path) -> None:
    """Plot the LSTM's attention weights for each subword of one translation."""
    run, line = example(corpus)
    source, target = run.model.subwords()
    config = SearchConfig(beam=5)
    rules = SearchRules.from_config(config, with_attention=True)
    model = run.model.read_model().eval()
    searcher = ModelSearcher([model], rules, target.forbidden_ids, device=torch.device("cpu"))
    translation = LineTranslator(searcher, SubwordPair(source, target), config).translate([line])[0]
    best = translation.candidates[0].hypothesis
    assert best.attention_TS is not None
    figure, axes = plt.subplots(figsize=(7, 6.5))
    image = axes.imshow(best.attention_TS, vmin=0, vmax=1, cmap="viridis", interpolation="none")
    axes.set_xticks(range(len(translation.source_ids)), readable(source.pieces(translation.source_ids)), rotation=90)
    axes.set_yticks(range(len(best.ids)), readable(target.pieces(best.ids)))
    axes.set_xlabel("source")
    axes.set_ylabel("translation")
    figure.colorbar(image, ax=axes, fraction=0.04, label="attention")
    save(figure, path)


def example(corpus: Corpus) -> tuple[Run, str]:
    """Return run and sentence of the heat maps: LSTM with attention, first test sentence nearest to PIECES subwords."""
    run = corpus.runs["attention", "lstm"][0]
    lengths = [len(ids) for ids in corpus.data.source_subword.encode_many(corpus.sources)]
    return run, min(zip(lengths, corpus.sources, strict=True), key=lambda one: abs(one[0] - PIECES))[1]


def readable(pieces: Sequence[str]) -> list[str]:
    """Return labels of subwords, with EOS spelled out."""
    return [piece.replace("</s>", "EOS") for piece in pieces]


def label(column: str, cell: str) -> str:
    """Return the legend of a line."""
    return f"{CELLS[cell]}, {COLUMNS[column]}"


def finish(
    figure: Any, axes: Any, path: Path, *, x: str = "", y: str = "", title: str = "", beside: bool = False
) -> None:
    """Add labels, legend and grid, and save; `beside` puts the legend beside the panel, where it covers no line."""
    if x:
        axes.set_xlabel(x)
    axes.set_ylabel(y)
    if title:
        axes.set_title(title)
    if beside:
        axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    else:
        axes.legend(fontsize="small")
    for one in figure.axes:
        one.grid(alpha=0.3)
    save(figure, path)


def save(figure: Any, path: Path) -> None:
    """Write a plot; equal numbers give equal bytes."""
    figure.savefig(path, dpi=100, bbox_inches="tight", metadata={"Software": None})
    plt.close(figure)


def use_fonts() -> None:
    """Use matplotlib's own font, with a fallback for Chinese characters if one is installed."""
    installed = {font.name for font in font_manager.fontManager.ttflist}
    chinese = [font for font in CJK_FONTS if font in installed]
    mpl.rcParams["font.family"] = ["DejaVu Sans", *chinese]
    if not chinese:
        print("No installed font has Chinese characters; plots show boxes. Install one, such as fonts-noto-cjk.")
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("outdir", type=Path)
    options = parser.parse_args()
    use_fonts()
    options.outdir.mkdir(parents=True, exist_ok=True)
    for folder in sorted(path.parent for path in options.work.glob("*/data-bin")):
        corpus = Corpus(folder)
        if not corpus.runs:
            continue
        (options.outdir / f"{corpus.name}.md").write_text(table(corpus), encoding="utf-8")
        print(f"{corpus.name}\n\n{table(corpus)}")
        draw_updates(corpus, options.outdir / f"{corpus.name}-updates.png")
        draw_lengths(corpus, options.outdir / f"{corpus.name}-lengths.png")
        draw_gradients(corpus, options.outdir / f"{corpus.name}-gradients.png")
        if ("attention", "lstm") in corpus.runs:
            draw_gates(corpus, options.outdir / f"{corpus.name}-gates.png")
            draw_attention(corpus, options.outdir / f"{corpus.name}-attention.png")
    print(f"The tables and plots are in {options.outdir}.")


if __name__ == "__main__":
    main()
