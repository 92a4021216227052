"""The benchmarks run, and their reference implementations and operation counts are correct."""

import argparse
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from nmtcli.config import ModelConfig, SearchConfig
from nmtcli.data.batches import Batch, TrainingBatches
from nmtcli.data.corpus import DataDirectory
from nmtcli.data.subword import EOS
from nmtcli.model.seq2seq import Seq2Seq
from nmtcli.search.host import SearchRules
from nmtcli.search.model_searcher import ModelSearcher
from nmtcli.search.translator import LineTranslator, SubwordPair
from nmtcli.store.reader import StoredModel

BENCHMARKS = Path(__file__).parents[2] / "recipes/benchmarks"


@pytest.fixture(scope="module")
def pages() -> Iterator[argparse.Namespace]:
    """The benchmarks' modules, which import each other from their folder."""
    sys.path.insert(0, str(BENCHMARKS))
    names = ("reference", "operations", "machine")
    yield argparse.Namespace(**{name: importlib.import_module(name) for name in names})
    sys.path.remove(str(BENCHMARKS))
    for name in names:
        del sys.modules[name]


@pytest.mark.parametrize("beam", [1, 4])
def test_the_classic_search_says_what_ours_says(beam: int, pages: Any, trained: Path, corpus: Path) -> None:
    directory = StoredModel.open(trained)
    model = directory.read_model().eval()
    source, target = directory.subwords()
    lines = (corpus / "test.num").read_text(encoding="utf-8").splitlines()
    config = SearchConfig(beam=beam)
    rules = SearchRules.from_config(config)
    searcher = ModelSearcher([model], rules, target.forbidden_ids, device=torch.device("cpu"))
    ours = LineTranslator(searcher, SubwordPair(source, target), config).translate(lines)
    classic = pages.reference.ClassicTranslator(
        model,
        target.forbidden_ids,
        beam=beam,
        batch_sentences=7,
        max_length=config.max_length,
        alpha=config.length_penalty,
    )
    found = classic.translate(source.encode_many(lines))
    assert [target.decode(ids) for ids in found] == [one.text for one in ours]


@pytest.mark.parametrize("name", ["InputFeedingModel", "GNMT"])
def test_a_reference_learns(name: str, pages: Any, data: Path) -> None:
    torch.manual_seed(1)
    directory = DataDirectory.open(data)
    batches = TrainingBatches(
        directory.train,
        directory.source_subword,
        directory.target_subword,
        batch_tokens=512,
        seed=1,
        subword_alpha=0,
        workers=0,
        pin_memory=False,
    ).stream(0, 0)
    size = directory.source_subword.size
    if name == "GNMT":
        model = pages.reference.GNMT(size, 32, layers=3, dropout=0.0)
    else:
        model = pages.reference.InputFeedingModel(size, 16, 32, 0.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for batch, _ in zip(batches, range(60), strict=False):
        optimizer.zero_grad()
        loss = model(batch)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]
    if name == "GNMT":
        found = model.eval().translate([[5, 6, 3], [7, 8, 9, 3]], [4, 9], beam=3)
        assert len(found) == 2
        assert [ids.index(EOS) + 1 for ids in found] == [len(ids) for ids in found]
        assert all(len(ids) <= limit for ids, limit in zip(found, [4, 9], strict=True))


def test_operations_are_those_counted_by_hand(pages: Any) -> None:
    config = ModelConfig(encoder_layers=1, decoder_layers=1, hidden_size=4, embedding_size=3)
    model = Seq2Seq(config, source_size=10, target_size=11, joint=False)
    batch = Batch.of([([5, 6, 3], [7, 3]), ([5, 3], [7, 8, 9, 3])])
    source, target = 5, 6
    directions = 2 * source * (3 + 2) * 4 * 2  # two directions, of width 2, with four gates
    keys, bridge = source * 4 * 4, 2 * 4 * 8
    decoder = target * (3 + 4) * 4 * 4
    attention = 2 * (3 * 2 + 2 * 4) * 4
    readout, projection = target * 8 * 3, target * 3 * 11
    multiplications = directions + keys + bridge + decoder + attention + readout + projection
    assert pages.operations.training_flops(model, batch) == 3 * 2 * multiplications
    for step_by_step in (True, False):
        limit = pages.operations.training_limit(model, batch, "fp32", torch.device("cpu"), step_by_step=step_by_step)
        assert limit > 0
    states = next(part for part in pages.operations.forward_parts(model, batch) if part.name == "decoder, states")
    assert (states.product, states.step, states.steps) == ((6, 4, 16), (2, 4, 16), 3.0)


def test_parts_of_it_run(data: Path, trained: Path, corpus: Path, tmp_path: Path) -> None:
    command = [sys.executable, BENCHMARKS / "bench.py", "--data", data, "--model", trained]
    command += ["--input", corpus / "test.num", "--rounds", "1", "--updates", "1", "--batch-tokens", "64"]
    command += ["--only", "start", "loader", "--out", tmp_path / "result.md", "--device", "cpu"]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    tables = (tmp_path / "result.md").read_text(encoding="utf-8")
    assert tables.strip() == done.stdout.strip()
    for part in ("hardware: ", "commit: ", "| `nmt translate` of one sentence |", "- padding: "):
        assert part in tables
