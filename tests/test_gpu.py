"""Training and search give the same results on a GPU as on a CPU. Skipped without a GPU."""

from pathlib import Path
from typing import Any

import pytest
import torch

from nmtcli.commands.machine import choose_device
from nmtcli.config import ModelConfig, SearchConfig
from nmtcli.data.batches import Batch
from nmtcli.losses.cross_entropy import CrossEntropy, chunked_cross_entropy
from nmtcli.model.cells import CELLS, CellState, RecurrentLayer, fused_lstm_cell, lstm_cell
from nmtcli.model.seq2seq import Seq2Seq
from nmtcli.search.graphs import Graphs
from nmtcli.search.host import Hypothesis, SearchRules
from nmtcli.search.model_searcher import ModelSearcher
from nmtcli.search.rules import Runner
from nmtcli.search.translator import LineTranslator, SubwordPair
from nmtcli.store.reader import StoredModel
from nmtcli.store.weights import read_tensors
from tests.conftest import TINY, Nmt, log_of

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")

LINES = ["3 1 4", "", "1 5 9 2 6 5", "2 7", "1", "8 2 8 1 8 2 8", "4 4 4 4 4", "0 1 2 3 4 5 6 7 8 9", "x"] * 3


@pytest.fixture
def gpu() -> torch.device:
    return choose_device("cuda")


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("with_state", [False, True])
def test_a_layer_computes_what_it_does_on_a_cpu(cell: str, with_state: bool, gpu: torch.device) -> None:
    torch.manual_seed(1)
    layer = RecurrentLayer(cell, 24, 32)
    input_BTE = torch.randn(5, 7, 24)
    state = CellState(torch.randn(5, 32), torch.randn(5, 32 if CELLS[cell].carries_cell else 0)) if with_state else None
    output_BTH = layer(input_BTE, state)
    output_BTH.square().sum().backward()
    grads = [parameter.grad.clone() for parameter in layer.parameters() if parameter.grad is not None]
    layer.to(gpu).zero_grad()
    on_gpu = (input_BTE.to(gpu), state and CellState(*(values.to(gpu) for values in state)))
    again_BTH = layer(*on_gpu)
    again_BTH.square().sum().backward()
    torch.testing.assert_close(again_BTH.cpu(), output_BTH, atol=1e-5, rtol=1e-5)
    for parameter, grad in zip(layer.parameters(), grads, strict=True):
        torch.testing.assert_close(
            parameter.grad.cpu() if parameter.grad is not None else None, grad, atol=1e-4, rtol=1e-4
        )
    layer.zero_grad()
    with torch.autocast("cuda", dtype=torch.bfloat16):
        low_BTH = layer(*on_gpu)
    assert low_BTH.dtype == torch.bfloat16
    torch.testing.assert_close(low_BTH.float().cpu(), output_BTH, atol=0.03, rtol=0.03)
    low_BTH.float().square().sum().backward()
    for parameter, grad in zip(layer.parameters(), grads, strict=True):
        assert parameter.grad is not None
        assert grad is not None
        torch.testing.assert_close(parameter.grad.cpu(), grad, atol=0.05 * float(grad.abs().max()), rtol=0.1)


def test_the_fused_step_is_the_written_one(gpu: torch.device) -> None:
    torch.manual_seed(1)
    layer = RecurrentLayer("lstm", 24, 32).to(gpu)
    input_NE = torch.randn(9, 24, device=gpu)
    state = CellState(torch.randn(9, 32, device=gpu), torch.randn(9, 32, device=gpu))
    with torch.no_grad():
        written, _ = lstm_cell(input_NE, state, layer.weights())
        fused = fused_lstm_cell(input_NE, state, layer.weights())
    torch.testing.assert_close(fused.hidden_NH, written.hidden_NH, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(fused.cell_NH, written.cell_NH, atol=1e-6, rtol=1e-5)


def test_the_loss_is_that_of_a_cpu(gpu: torch.device) -> None:
    torch.manual_seed(1)
    inputs = [torch.randn(300, 16), torch.randn(70, 16), torch.randn(70)]
    targets_N, mask_N = torch.randint(70, (300,)), torch.rand(300) < 0.8
    found = []
    for device in (torch.device("cpu"), gpu):
        readout_NE, projection_VE, bias_V = leaves = [values.clone().to(device).requires_grad_() for values in inputs]
        sides = targets_N.to(device), mask_N.to(device)
        loss, nll = chunked_cross_entropy(readout_NE, projection_VE, bias_V, *sides, label_smoothing=0.1)
        loss.backward()
        found.append([loss.detach().cpu(), nll.cpu(), *(leaf.grad.cpu() for leaf in leaves if leaf.grad is not None)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-4)


def test_an_update_does_not_wait_for_the_gpu(gpu: torch.device) -> None:
    model = Seq2Seq(ModelConfig(hidden_size=32, embedding_size=16), source_size=50, target_size=50, joint=True)
    model.train().to(gpu)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    batch = Batch.of([([5, 6, 7, 1], [8, 9, 1]), ([5, 1], [7, 6, 5, 1])]).to(gpu)
    torch.cuda.set_sync_debug_mode("error")
    try:
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = CrossEntropy(label_smoothing=0.1)(model, batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.isfinite(loss)


@pytest.mark.parametrize("beam", ["1", "5"])
def test_translations_are_those_of_a_cpu(beam: str, trained: Path, nmt: Nmt) -> None:
    text = "".join(f"{line}\n" for line in LINES).encode()
    options = ("--model", trained, "--beam", beam, "--nbest", beam, "--batch-tokens", "200", "--precision", "fp32")
    cpu, cuda = (nmt("translate", *options, "--device", device, stdin=text) for device in ("cpu", "cuda"))
    assert (cpu.code, cuda.code) == (0, 0), cuda.err
    texts = [[line.split(" ||| ")[:2] for line in one.lines] for one in (cpu, cuda)]
    assert texts[0] == texts[1]
    low = nmt("translate", "--model", trained, "--beam", beam, "--device", "cuda", "--precision", "bf16", stdin=text)
    assert len(low.lines) == len(LINES)


@pytest.mark.parametrize("options", [{"beam": 1}, {"beam": 4, "coverage_penalty": 0.2}, {"beam": 5}])
def test_graphs_find_what_single_steps_find(options: dict[str, Any], trained: Path, gpu: torch.device) -> None:
    directory = StoredModel.open(trained)
    model = directory.read_model().eval().to(gpu)
    config = SearchConfig(batch_tokens=300, **options)
    text = SubwordPair(*directory.subwords())
    found: list[list[tuple[list[int], float]]] = []
    graphs = Graphs()
    for runner in (Runner(), graphs, graphs, graphs):  # the second search with a shape captures its graph
        searcher = ModelSearcher(
            [model], SearchRules.from_config(config), text.target.forbidden_ids, device=gpu, runner=runner
        )
        translator = LineTranslator(searcher, text, config)
        candidates = [
            candidate.hypothesis for translation in translator.translate(LINES) for candidate in translation.candidates
        ]
        found.append([summary(one) for one in candidates])
    assert len(graphs.captured_steps) > 0
    assert len(graphs.captured_starts) > 0
    for other in found[1:]:
        assert [ids for ids, _ in other] == [ids for ids, _ in found[0]]
        assert [score for _, score in other] == pytest.approx([score for _, score in found[0]], abs=1e-4)


def summary(hypothesis: Hypothesis) -> tuple[list[int], float]:
    return hypothesis.ids, hypothesis.score


GPU = ("--device", "cuda", "--patience", "0", "--log-every", "5", "--validate-every", "10")


def test_training_learns_and_resumes_exactly(data: Path, tmp_path: Path, nmt: Nmt) -> None:
    def train(model: str, updates: int, *options: str) -> None:
        result = nmt(
            *("train", "--data", data, "--model", tmp_path / model, *TINY, *GPU, "--deterministic", "--resume"),
            *("--learning-rate", "0.01"),
            *("--max-updates", str(updates), "--decay", "none", "--warmup", "5", *options),
        )
        assert result.code == 0, result.err

    for precision in ("fp32", "bf16"):
        train(f"whole-{precision}", 40, "--precision", precision)
        train(f"cut-{precision}", 20, "--precision", precision)
        train(f"cut-{precision}", 40, "--precision", precision)
        records = [log_of(tmp_path / f"{name}-{precision}", "train") for name in ("whole", "cut")]
        losses = [[record["loss"] for record in some] for some in records]
        assert losses[0] == losses[1]
        assert losses[0][-1] < 0.8 * losses[0][0]
        whole, cut = (read_tensors(tmp_path / f"{name}-{precision}/model.safetensors")[0] for name in ("whole", "cut"))
        for name, values in whole.items():
            assert torch.equal(values, cut[name]), name


def test_auto_is_the_largest_batch_that_fits(data: Path, tmp_path: Path, nmt: Nmt) -> None:
    options = ("--data", data, "--model", tmp_path / "model", *TINY, *GPU, "--batch-tokens", "auto", "--resume")
    for updates in ("1", "2"):
        result = nmt("train", *options, "--max-updates", updates)
        assert result.code == 0, result.err
        assert StoredModel.open(tmp_path / "model").record.batch_tokens == 1 << 16  # the largest choice


@pytest.mark.parametrize("loss", ["greedy", "beam", "risk", "max-margin", "sequence-nll"])
def test_losses_of_search_train(loss: str, data: Path, trained: Path, tmp_path: Path, nmt: Nmt) -> None:
    result = nmt(
        *("train", "--data", data, "--model", tmp_path / "model", *TINY, *GPU, "--init-from", trained, "--loss", loss),
        *("--hidden-size", "32", "--embedding-size", "16", "--max-updates", "4", "--precision", "bf16"),
    )
    assert result.code == 0, result.err
