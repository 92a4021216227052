"""The model directory: whole files or none, weights that come back, damage that costs one line, and no code in it."""

import ast
import dataclasses
import io
import json
import pickle
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch

import nmtcli
import nmtcli.store.weights as page
from nmtcli.config import ModelConfig, TrainConfig
from nmtcli.data.corpus import DataDirectory
from nmtcli.store.reader import StoredModel
from nmtcli.store.weights import read_tensors, unique_state, weights_bytes
from nmtcli.training.assembly import begun
from nmtcli.training.checkpoint import DiskWriter, RunState, generator_states, load_last
from nmtcli.training.progress import Progress
from tests.conftest import TINY, Nmt, edited_json


def new_directory(path: Path, data: Path, **shape: Any) -> tuple[StoredModel, DiskWriter]:
    config = ModelConfig(hidden_size=6, embedding_size=4, **shape)
    stored = begun(config, TrainConfig(model=str(path)), DataDirectory.open(data), "fp32").stored
    writer = DiskWriter(stored)
    writer.create(data / "source.model", data / "target.model", None)
    return stored, writer


@pytest.mark.parametrize("tie", ["all", "target", "none"])
def test_weights_come_back_bit_for_bit_and_tied_ones_are_there_once(tmp_path: Path, data: Path, tie: str) -> None:
    stored, writer = new_directory(tmp_path / "model", data, tie_embeddings=tie)
    model = stored.new_model()
    writer.save_best(model)
    (read, reopened) = (StoredModel.open(tmp_path / "model").read_model(), stored.read_model("best"))
    for name, value in unique_state(model).items():
        assert torch.equal(unique_state(read)[name], value)
        assert torch.equal(unique_state(reopened)[name], value)
    arrays = safetensors.numpy.load_file(tmp_path / "model" / "model.safetensors")  # a reader that is not ours
    assert sum(array.size for array in arrays.values()) == sum(parameter.numel() for parameter in model.parameters())


def test_an_average_is_the_mean_of_each_weight(tmp_path: Path, data: Path) -> None:
    stored, writer = new_directory(tmp_path / "model", data)
    for update in (10, 20, 30):
        writer.save_checkpoint(update, stored.new_model())
    averaged = weights_bytes(stored.average([10, 20, 30]))
    files = [tmp_path / f"model/checkpoints/update-{update:08d}/model.safetensors" for update in (10, 20, 30)]
    parts = [safetensors.numpy.load_file(file) for file in files]
    for name, mean in safetensors.numpy.load(averaged).items():
        expected = np.mean([one[name].astype(np.float64) for one in parts], axis=0)
        np.testing.assert_allclose(mean, expected, rtol=1e-6, atol=1e-8)
        assert mean.dtype == np.float32


def test_only_the_checkpoints_that_are_wanted_stay(tmp_path: Path, data: Path) -> None:
    stored, writer = new_directory(tmp_path / "model", data)
    model = stored.new_model()
    for update in (5, 10, 100_000_000):
        writer.save_checkpoint(update, model)
    (tmp_path / "model/checkpoints/notes").mkdir()
    assert stored.checkpoints() == [5, 10, 100_000_000]
    writer.keep_checkpoints({10, 11})
    assert stored.checkpoints() == [10]
    assert (tmp_path / "model/checkpoints/notes").exists()


def test_a_training_state_brings_back_weights_optimiser_and_random_numbers(tmp_path: Path, data: Path) -> None:
    stored, writer = new_directory(tmp_path / "model", data)

    def made(seed: int) -> RunState:
        torch.manual_seed(seed)
        model = stored.new_model()
        return RunState(model, torch.optim.Adam(model.parameters(), fused=True), Progress(), None)

    def step(state: RunState) -> None:
        state.optimizer.zero_grad()
        products = [(parameter * torch.randn_like(parameter)).sum() for parameter in state.model.parameters()]
        torch.stack(products).sum().backward()
        state.optimizer.step()

    state = made(1)
    step(state)
    state.progress.update, state.progress.validations = 1, [(1, 0.5)]
    writer.save_last(state, [generator_states(torch.device("cpu"))])
    step(state)

    other = load_last(tmp_path / "model/last/state.safetensors", made(2))
    assert dataclasses.asdict(other.progress) == {**dataclasses.asdict(state.progress), "validations": [[1, 0.5]]}
    step(other)
    for name, parameter in state.model.named_parameters():
        assert torch.equal(other.model.get_parameter(name), parameter)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def cut_by_a_byte(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def remove(path: Path) -> None:
    path.unlink()


def foreign(path: Path) -> None:
    path.write_bytes(b"\x93NUMPY is something else\n" * 100)


def endless_header(path: Path) -> None:
    path.write_bytes(b"\xff" * 8 + b"{}")


def other_names(path: Path) -> None:
    path.write_bytes(safetensors.numpy.save({"weight": np.zeros(3, np.float32)}))


def a_name_missing(path: Path) -> None:
    tensors = safetensors.numpy.load_file(path)
    tensors.pop(min(tensors))
    path.write_bytes(safetensors.numpy.save(tensors))


def other_shape(path: Path) -> None:
    tensors = safetensors.numpy.load_file(path)
    tensors[max(tensors)] = np.zeros((2, 3), np.float32)
    path.write_bytes(safetensors.numpy.save(tensors))


def edited(key: str, value: object = None) -> Callable[[Path], None]:
    """Sets a key of a JSON file, or removes it."""

    def edit(path: Path) -> None:
        with edited_json(path) as content:
            if value is None:
                del content[key]
            else:
                content[key] = value

    edit.__name__ = f"{key} = {value}"
    return edit


WEIGHTS_DAMAGE = [cut, cut_by_a_byte, empty, remove, foreign, endless_header, other_names, a_name_missing, other_shape]
CONFIG_DAMAGE = [
    *(cut, empty, remove, foreign),
    edited("format", "nmtcli-data"),
    edited("format"),
    edited("version", 2),
    edited("version"),
    edited("model"),
    edited("model", {"hidden_size": "large"}),
    edited("model", {"number_of_wheels": 4}),
    edited("source_size"),
    edited("target_size", "many"),
    edited("joint"),
    edited("target_sha256", "0" * 64),
]


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        *(("model.safetensors", damage) for damage in WEIGHTS_DAMAGE),
        *(("config.json", damage) for damage in CONFIG_DAMAGE),
        *((f"{side}.model", damage) for side in ("source", "target") for damage in (cut, empty, remove, foreign)),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_a_damaged_model_directory_costs_one_line(
    name: str, damage: Callable[[Path], None], model: Path, nmt: Nmt
) -> None:
    damage(model / name)
    said = nmt("translate", "--model", model, stdin=b"1 2 3\n").refusal(4)
    assert str(model) in said


@pytest.mark.parametrize(
    "damage",
    [
        *(damage for damage in WEIGHTS_DAMAGE if damage is not remove),  # without it, the run starts again
        pytest.param(lambda path: shutil.copyfile(path.parents[1] / "model.safetensors", path), id="weights only"),
    ],
)
def test_a_damaged_training_state_costs_one_line(
    damage: Callable[[Path], None], model: Path, data: Path, nmt: Nmt
) -> None:
    damage(model / "last/state.safetensors")
    said = nmt("train", "--data", data, "--model", model, "--resume").refusal(4)
    assert str(model / "last/state.safetensors") in said


@pytest.mark.parametrize("progress", ["{", "[]", "7", '{"wheels": 4}', '{"update": "many"}'])
def test_a_progress_that_is_none_costs_one_line(progress: str, model: Path, data: Path, nmt: Nmt) -> None:
    state = model / "last/state.safetensors"
    tensors, _ = read_tensors(state)
    safetensors.torch.save_file(tensors, state, {"progress": progress})
    assert str(state) in nmt("train", "--data", data, "--model", model, "--resume").refusal(4)


@pytest.mark.parametrize(
    "damage",
    [edited("training"), edited("training", {"wheels": 4}), edited("precision"), edited("precision", "int1")],
    ids=lambda damage: damage.__name__,
)
def test_a_run_whose_configuration_is_damaged_does_not_go_on(
    damage: Callable[[Path], None], model: Path, data: Path, nmt: Nmt
) -> None:
    damage(model / "config.json")
    said = nmt("train", "--data", data, "--model", model, "--resume").refusal(4)
    assert str(model / "config.json") in said


def test_a_checkpoint_that_is_not_there_is_refused_with_those_that_are(model: Path, nmt: Nmt) -> None:
    said = nmt("translate", "--model", model, "--checkpoint", "update-00000007").refusal(4)
    for name in ("last", "update-00000050", "update-00000100", "update-00000150"):
        assert name in said
    for name in ("../../etc/passwd", "update-", "newest", "update-7/../../x"):
        assert name in nmt("translate", "--model", model, "--checkpoint", name).refusal(2)


# no code


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return open, (str(self.path), "w")


def by_pickle(bomb: Bomb) -> bytes:
    return pickle.dumps(bomb)


def by_torch(bomb: Bomb) -> bytes:
    content = io.BytesIO()
    torch.save({"model": bomb}, content)
    return content.getvalue()


def by_numpy(bomb: Bomb) -> bytes:
    content = io.BytesIO()
    np.save(content, np.array([bomb], dtype=object), allow_pickle=True)
    return content.getvalue()


def by_numpy_archive(bomb: Bomb) -> bytes:
    content = io.BytesIO()
    np.savez(content, np.array([bomb], dtype=object), allow_pickle=True)
    return content.getvalue()


def test_the_bombs_of_these_tests_go_off(tmp_path: Path) -> None:
    bomb = Bomb(tmp_path / "went off")
    pickle.loads(by_pickle(bomb)).close()
    assert bomb.path.exists()
    bomb.path.unlink()
    np.load(io.BytesIO(by_numpy(bomb)), allow_pickle=True)[0].close()
    assert bomb.path.exists()


@pytest.mark.parametrize("pickled", [by_pickle, by_torch, by_numpy, by_numpy_archive])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("config.json", []),
        ("model.safetensors", []),
        ("best.safetensors", ["--checkpoint", "best"]),
        ("checkpoints/update-00000050/model.safetensors", ["--checkpoint", "update-00000050"]),
        ("last/state.safetensors", ["--checkpoint", "last"]),
        ("source.model", []),
        ("target.model", []),
    ],
)
def test_a_pickle_in_a_model_directory_runs_nothing(
    name: str, options: list[str], pickled: Callable[[Bomb], bytes], model: Path, tmp_path: Path, nmt: Nmt
) -> None:
    bomb = Bomb(tmp_path / "went off")
    (model / name).write_bytes(pickled(bomb))
    assert name in nmt("translate", "--model", model, *options, stdin=b"1 2\n").refusal(4)
    assert not bomb.path.exists()


@pytest.mark.parametrize("pickled", [by_pickle, by_torch, by_numpy, by_numpy_archive])
@pytest.mark.parametrize("name", ["meta.json", "train.source.tokens.npy", "train.target.offsets.npy", "source.model"])
def test_a_pickle_in_a_data_directory_runs_nothing(
    name: str, pickled: Callable[[Bomb], bytes], data: Path, tmp_path: Path, nmt: Nmt
) -> None:
    copied = Path(shutil.copytree(data, tmp_path / "data-bin"))
    bomb = Bomb(tmp_path / "went off")
    (copied / name).write_bytes(pickled(bomb))
    said = nmt("train", "--data", copied, "--model", tmp_path / "model", *TINY, "--max-updates", "1").refusal(4)
    assert name in said
    assert not bomb.path.exists()


UNPICKLERS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def test_nothing_in_the_package_can_unpickle_or_evaluate() -> None:
    found = []
    files = list(Path(nmtcli.__file__).parent.rglob("*.py"))
    assert len(files) > 20
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            forbidden = False
            if isinstance(node, ast.Import):
                forbidden = any(alias.name.split(".")[0] in UNPICKLERS for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                forbidden = (node.module or "").split(".")[0] in UNPICKLERS
                forbidden |= node.module == "torch" and any(alias.name in ("load", "save") for alias in node.names)
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                forbidden = (node.value.id, node.attr) in (("torch", "load"), ("torch", "save"))
            elif isinstance(node, ast.Call):
                forbidden = isinstance(node.func, ast.Name) and node.func.id in ("eval", "exec", "__import__")
                for keyword in node.keywords:
                    if keyword.arg in ("allow_pickle", "weights_only"):
                        safe = keyword.arg == "weights_only"
                        forbidden |= not (isinstance(keyword.value, ast.Constant) and keyword.value.value is safe)
                called = ast.unparse(node.func)
                if called in ("np.load", "numpy.load"):
                    forbidden |= "allow_pickle" not in {keyword.arg for keyword in node.keywords}
            if forbidden:
                found.append(f"{file}: {ast.unparse(node)}")
    assert found == []


def test_every_json_of_a_directory_begins_with_format_and_version(trained: Path, data: Path) -> None:
    for path, name in ((trained / "config.json", "nmtcli-model"), (data / "meta.json", "nmtcli-data")):
        assert list(json.loads(path.read_text(encoding="utf-8")).items())[:2] == [("format", name), ("version", 1)]


# what a checksum can tell, and shapes that would fill the memory


def flip(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("verify", [[], ["--verify"]], ids=["quick", "verify"])
def test_a_bit_that_flipped_in_the_weights_is_found(
    verify: list[str], model: Path, nmt: Nmt, monkeypatch: pytest.MonkeyPatch
) -> None:
    flip(model / "model.safetensors", -1)
    if verify:  # as if it were large
        monkeypatch.setattr(page, "QUICK_BYTES", 10)
        assert nmt("translate", "--model", model, stdin=b"1\n").code == 0
    said = nmt("translate", "--model", model, *verify, stdin=b"1\n").refusal(4)
    assert "model.safetensors is damaged: its tensors do not match their hash" in said


def test_a_bit_that_flipped_in_the_state_is_found_whatever_its_size(
    model: Path, data: Path, nmt: Nmt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "QUICK_BYTES", 10)
    flip(model / "last/state.safetensors", -1)
    said = nmt("train", "--model", model, "--data", data, "--resume", "--max-updates", "99").refusal(4)
    assert "state.safetensors is damaged" in said


def test_weights_from_before_there_was_a_hash_are_read(model: Path, nmt: Nmt) -> None:
    expected = nmt("translate", "--model", model, stdin=b"1\n").out
    tensors, metadata = read_tensors(model / "model.safetensors")
    assert metadata["sha256"]
    (model / "model.safetensors").write_bytes(safetensors.torch.save(tensors, {"format": "pt"}))
    assert nmt("translate", "--model", model, "--verify", stdin=b"1\n").out == expected


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("source_size", 1 << 40),
        ("source_size", 1 << 23),
        ("target_size", "17"),
        ("source_size", True),
        ("joint", 1),
        ("hidden_size", 1 << 20),
        ("embedding_size", 1 << 22),
        ("encoder_layers", 1 << 30),
        ("decoder_layers", 60),
    ],
)
def test_a_shape_that_would_fill_the_memory_is_refused_before_it_does(
    key: str, value: object, model: Path, nmt: Nmt
) -> None:
    with edited_json(model / "config.json") as about:
        (about["model"] if key in about["model"] else about)[key] = value
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (16 << 30, hard))
    try:
        nmt("translate", "--model", model, stdin=b"1\n").refusal(4)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
