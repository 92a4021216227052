"""Format 1 of both directories: data and models written by nmt 0.1.0 can still be read, translated with and resumed."""

import json
import shutil
from pathlib import Path

import pytest
import safetensors.numpy

from nmtcli.data.corpus import DataDirectory
from nmtcli.store.reader import StoredModel
from tests.conftest import Nmt, log_of
from tests.oracles import ids_of

FORMAT_1 = Path(__file__).parent / "fixtures/format-1"


@pytest.fixture
def frozen(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FORMAT_1, tmp_path / "format-1"))


def text(name: str) -> list[str]:
    return (FORMAT_1 / "corpus" / name).read_text(encoding="utf-8").splitlines()


def test_a_data_directory_of_format_1_gives_back_its_text() -> None:
    data = DataDirectory.open(FORMAT_1 / "data-bin")
    assert (data.meta["format"], data.meta["version"]) == ("nmtcli-data", 1)
    decoded = [
        (data.source_subword.decode(source), data.target_subword.decode(target))
        for source, target in ids_of(data.train)
    ]
    assert decoded == list(zip(text("train.num"), text("train.en"), strict=True))
    assert data.valid == list(zip(text("valid.num"), text("valid.en"), strict=True))
    assert data.test(1) == list(zip(text("test.num"), text("test.en"), strict=True))


def test_a_model_directory_of_format_1_translates_as_it_did(nmt: Nmt) -> None:
    source = (FORMAT_1 / "corpus/test.num").read_bytes()
    result = nmt("translate", "--model", FORMAT_1 / "model", "--beam", "5", "--threads", "1", stdin=source)
    assert result.code == 0, result.err
    assert result.out == (FORMAT_1 / "output.en").read_bytes()


def test_weights_of_format_1_are_read_to_the_last_bit() -> None:
    model = StoredModel.open(FORMAT_1 / "model").read_model()
    stored = safetensors.numpy.load_file(FORMAT_1 / "model/model.safetensors")
    assert {name for name, _ in model.named_parameters()} == set(stored)
    for name, parameter in model.named_parameters():
        assert (parameter.detach().numpy() == stored[name]).all(), name


def test_a_run_of_format_1_goes_on(frozen: Path, nmt: Nmt) -> None:
    before = log_of(frozen / "model")
    result = nmt(
        "train", "--data", frozen / "data-bin", "--model", frozen / "model", "--resume", "--max-updates", "310"
    )
    assert result.code == 0, result.err
    assert "Going on at update 300" in result.err
    after = log_of(frozen / "model")
    assert after[: len(before)] == before
    assert after[-1]["update"] == 310
    assert after[-1]["loss"] < 0.5  # it continues from the trained weights


@pytest.mark.parametrize("name", ["data-bin/meta.json", "model/config.json"])
def test_a_format_of_the_future_is_refused(name: str, frozen: Path, nmt: Nmt) -> None:
    file = frozen / name
    about = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**about, "version": 2}), encoding="utf-8")
    said = nmt("train", "--data", frozen / "data-bin", "--model", frozen / "model", "--resume").refusal(4)
    assert "version 2" in said
