"""The grid of cells: models have equal sizes, statistics and plots are correct, and a stopped grid resumes."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from nmtcli.config import ARCHITECTURES, ModelConfig
from nmtcli.data.batches import Batch
from nmtcli.model.seq2seq import Seq2Seq
from tests.recipes.scripts import RECIPES, load

FOLDER = RECIPES / "lstm-vs-rnn"
RUN = (FOLDER / "run.sh").read_text(encoding="utf-8")
RECIPE = tomllib.loads((FOLDER / "recipe.toml").read_text(encoding="utf-8"))


report: Any = load("lstm-vs-rnn/report.py")
CELLS = tuple(report.CELLS)


def widths() -> dict[str, int]:
    return {system: int(width) for system, width in re.findall(r"\[(\w+-\w+)\]=(\d+)", RUN)}


def architectures() -> dict[str, str]:
    return dict(re.findall(r"\[(\w+)\]=(luong|sutskever)", RUN))


def model_of(column: str, cell: str, **changed: Any) -> Seq2Seq:
    """Make a model of the grid, with tiny vocabularies."""
    arch = architectures()[column]
    given = {**RECIPE["model"], "arch": arch, "cell": cell, "hidden_size": widths()[f"{column}-{cell}"]}
    config = ModelConfig(**{**ARCHITECTURES[arch], **given, **changed})
    return Seq2Seq(config, source_size=40, target_size=40, joint=True).eval()


def batch_of(*lengths: tuple[int, int]) -> Batch:
    random = np.random.default_rng(1)
    return Batch.of([([*random.integers(4, 40, s - 1), 3], [*random.integers(4, 40, t - 1), 3]) for s, t in lengths])


def test_parameters_of_a_column_differ_by_less_than_five_per_cent() -> None:
    assert set(widths()) == {f"{column}-{cell}" for column in report.COLUMNS for cell in CELLS}
    for column in report.COLUMNS:
        sizes = []
        for cell in CELLS:
            model = model_of(column, cell)
            total = sum(parameter.numel() for parameter in model.parameters())
            assert report.embedding_parameters(model) == 40 * RECIPE["model"]["embedding_size"] + 40
            sizes.append(total - report.embedding_parameters(model))
        assert max(sizes) / min(sizes) < 1.05


def test_the_columns_differ_by_attention_only() -> None:
    one, other = (model_of(column, "lstm") for column in report.COLUMNS)
    fixed = {name: parameter.shape for name, parameter in one.named_parameters()}
    attention = {name: parameter.shape for name, parameter in other.named_parameters()}
    assert all(name.startswith("decoder.attention.") for name in set(attention) - set(fixed))
    assert {name for name in fixed if fixed[name] != attention[name]} == {"decoder.readout.weight"}


@pytest.mark.parametrize("column", ["fixed", "attention"])
@pytest.mark.parametrize("cell", CELLS)
def test_gradient_norms_are_those_of_finite_differences(column: str, cell: str) -> None:
    torch.manual_seed(1)
    model = model_of(column, cell, hidden_size=6, embedding_size=5).double()
    batch = batch_of((4, 3), (3, 4))
    norms_BTS = report.gradient_norms(model, batch, 4)
    assert norms_BTS.shape == (2, 4, 4)

    def nll(shift_BSE: torch.Tensor) -> torch.Tensor:
        hook = model.encoder.register_forward_pre_hook(lambda _, inputs: (inputs[0] + shift_BSE, inputs[1]))
        memory, state = model.encode(batch.source_BS, batch.source_mask_BS)
        hook.remove()
        logits_BTV = model.logits(model.decode(memory, state, batch.target_input_BT))
        return F.cross_entropy(logits_BTV.transpose(1, 2), batch.target_output_BT, reduction="none")

    squares_BTS = torch.zeros_like(norms_BTS)
    for position in range(4):
        for entry in range(5):
            shift_BSE = torch.zeros(2, 4, 5, dtype=torch.float64)
            shift_BSE[:, position, entry] = 1e-5
            with torch.no_grad():
                slope_BT = (nll(shift_BSE) - nll(-shift_BSE)) / 2e-5
            squares_BTS[:, :, position] += slope_BT**2
    torch.testing.assert_close(norms_BTS, squares_BTS.sqrt(), atol=1e-8, rtol=1e-6)
    assert norms_BTS[1, :, 3].eq(0).all()  # padding


def test_distances_count_the_steps_from_the_position_back_to_the_start_and_on_to_the_output() -> None:
    torch.manual_seed(1)
    model = model_of("fixed", "lstm", hidden_size=6, embedding_size=5)
    batch = batch_of((3, 3), (4, 3))
    norms_TS = report.gradient_norms(model, batch, 3).mean(dim=0)
    distances, norms = report.norms_by_distance(model, batch)
    assert distances == [1, 2, 3, 4, 5]
    assert norms[0] == pytest.approx(float(norms_TS[0, 0]))
    assert norms[1] == pytest.approx(float(norms_TS[0, 1] + norms_TS[1, 0]) / 2)
    assert norms[4] == pytest.approx(float(norms_TS[2, 2]))


def test_the_gates_that_are_drawn_are_those_that_the_encoder_has() -> None:
    torch.manual_seed(1)
    model = model_of("attention", "lstm", hidden_size=6, embedding_size=5).double()
    source_BS = torch.tensor([[9, 5, 30, 12, 3]])
    with torch.no_grad():
        gates, outputs_SH = report.lstm_gates(model, source_BS)
        memory, _ = model.encode(source_BS, torch.ones_like(source_BS, dtype=torch.bool))
    torch.testing.assert_close(outputs_SH.flip(0), memory.values_BSH[0])
    for values_SH in gates:
        assert values_SH.shape == (5, 6)
    assert gates.forget_NH.gt(0).all()
    assert gates.forget_NH.lt(1).all()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The work directory of one run with SMALL=1, and its environment."""
    work = tmp_path_factory.mktemp("grid")
    binaries = Path(sys.executable).parent
    environment = {**os.environ, "SMALL": "1", "WORK": str(work), "PATH": f"{binaries}:{os.environ['PATH']}"}
    subprocess.run([FOLDER / "run.sh"], env=environment, check=True, capture_output=True, text=True)
    return work, environment


def test_a_small_grid_gives_table_and_pictures(small: tuple[Path, dict[str, str]]) -> None:
    work, _ = small
    names = [f"demo-en-zh-{what}.png" for what in ("attention", "gates", "gradients", "lengths", "updates")]
    assert sorted(path.name for path in (work / "report").iterdir()) == sorted([*names, "demo-en-zh.md"])
    for name in names:
        assert (work / "report" / name).read_bytes().startswith(b"\x89PNG")
    head, _, *rows = (work / "report" / "demo-en-zh.md").read_text(encoding="utf-8").splitlines()
    systems = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[:6]]
    assert [row[:2] for row in systems] == [
        [column, cell] for column in report.COLUMNS.values() for cell in report.CELLS.values()
    ]
    assert all(len(row) == head.count("|") - 1 for row in systems)


def test_a_grid_that_goes_on_does_only_what_is_missing(small: tuple[Path, dict[str, str]]) -> None:
    work, environment = small
    cut = work / "demo-en-zh" / "fixed-gru-1"
    (cut / "score.json").unlink()
    output = (cut / "output.zh").read_bytes()
    (cut / "output.zh").unlink()
    done = subprocess.run([FOLDER / "run.sh"], env=environment, check=True, capture_output=True, text=True)
    assert re.findall(r"^demo.* is done\.$", done.stdout, flags=re.MULTILINE) == [
        "demo-en-zh, fixed, gru, seed 1 is done."
    ]
    assert (cut / "output.zh").read_bytes() == output
