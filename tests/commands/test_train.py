"""`nmt train`: exact resumes, protection of existing directories, signals, and options."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from nmtcli import cli
from nmtcli.config import ModelConfig
from nmtcli.data.batches import plan
from nmtcli.data.corpus import DataDirectory
from nmtcli.model.seq2seq import Seq2Seq
from nmtcli.store.reader import StoredModel
from nmtcli.store.weights import read_tensors
from nmtcli.training.schedule import Schedule
from tests.conftest import (
    EVENTFUL,
    TINY,
    Nmt,
    digits_and_words,
    edited_json,
    log_of,
    make_data,
    train,
    trained_well,
    write_pairs,
)
from tests.oracles import assert_same_run, progress_of, tree

# resume


@pytest.fixture(scope="module")
def undisturbed(nmt: Nmt, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run of 14 updates."""
    return trained_well(nmt, data, tmp_path_factory.mktemp("run") / "model", *EVENTFUL, "--max-updates", "14")


@pytest.mark.parametrize(("first", "second"), [("0", "0"), ("1", "1"), ("1", "0")], ids=lambda value: value)
def test_7_updates_and_7_more_are_14_bit_for_bit(
    first: str, second: str, undisturbed: Path, nmt: Nmt, data: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    trained_well(nmt, data, model, *EVENTFUL, "--max-updates", "7", "--loader-workers", first)
    halfway = progress_of(model)
    assert halfway["update"] == 7
    assert halfway["batch"] > 0  # in the middle of an epoch
    assert halfway["tokens"]  # and between two lines of log
    state, _ = read_tensors(model / "last/state.safetensors")
    assert "optimizer.decoder.readout.weight.exp_avg_sq" in state
    trained_well(nmt, data, model, "--resume", "--max-updates", "14", "--loader-workers", second)
    assert_same_run(model, undisturbed)
    assert progress_of(model)["epoch"] == 1
    assert progress_of(model)["cuts"] > 0


def test_a_run_goes_on_from_within_a_block(
    nmt: Nmt, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nmtcli.data.batches.BLOCK", 128)
    monkeypatch.setattr("nmtcli.data.batches.NEIGHBOURS", 16)
    options = [*EVENTFUL, "--loader-workers", "0"]
    whole = trained_well(nmt, data, tmp_path / "whole", *options, "--max-updates", "14")
    model = trained_well(nmt, data, tmp_path / "cut", *options, "--max-updates", "5")
    assert progress_of(model)["block"] > 0
    assert progress_of(model)["batch"] > 0
    trained_well(nmt, data, model, "--resume", "--max-updates", "14")
    assert_same_run(model, whole)


def test_corpora_are_mixed_as_asked_for_and_a_run_goes_on_among_them(nmt: Nmt, corpus: Path, tmp_path: Path) -> None:
    write_pairs(tmp_path / "small", digits_and_words(60, seed=2))
    data = make_data(tmp_path / "data-bin", corpus, "--train", str(tmp_path / "small"), "--vocab-size", "400")
    mixed = ["--mix", "train=1,small=1", *EVENTFUL, "--max-epochs", "0"]
    whole = trained_well(nmt, data, tmp_path / "whole", *mixed, "--max-updates", "24")
    model = trained_well(nmt, data, tmp_path / "cut", *mixed, "--max-updates", "7")
    refused = train(nmt, data, model, "--resume", "--mix", "train=1,small=2", shape=())
    assert refused.code == 2
    assert "--mix train=1,small=2 (was train=1,small=1)" in refused.err
    trained_well(nmt, data, model, "--resume", "--max-updates", "24")
    assert_same_run(model, whole)
    plain = trained_well(nmt, data, tmp_path / "plain", *EVENTFUL, "--max-epochs", "0", "--max-updates", "24")
    assert progress_of(whole)["epoch"] < progress_of(plain)["epoch"]  # an epoch has 1,200 places instead of 660


@pytest.mark.parametrize(("mix", "said"), [("train=1,news=1", "called `news`. It has train."), ("train=x", "is `x`")])
def test_a_mix_that_cannot_be_is_refused(mix: str, said: str, nmt: Nmt, data: Path, tmp_path: Path) -> None:
    result = train(nmt, data, tmp_path / "model", "--mix", mix)
    assert result.code == 2
    assert said in result.err
    assert not (tmp_path / "model").exists()


VARIETIES = {
    "adagrad in steps": ["--optimizer", "adagrad", "--decay", "step", "--decay-start", "0.3", "--decay-every", "0.2"],
    "sgd": ["--optimizer", "sgd", "--learning-rate", "0.5", "--weight-decay", "0.01"],
    "a mean and masks": ["--ema", "0.9", "--weight-decay", "0.1", "--variational-dropout", "--word-dropout", "0.1"],
}


@pytest.mark.parametrize("variety", VARIETIES)
def test_every_optimiser_and_a_mean_go_on_bit_for_bit(variety: str, nmt: Nmt, data: Path, tmp_path: Path) -> None:
    options = [*VARIETIES[variety], "--log-every", "2", "--validate-every", "3"]
    whole = trained_well(nmt, data, tmp_path / "whole", *options, "--max-updates", "8")
    trained_well(nmt, data, tmp_path / "model", *options, "--max-updates", "5")
    trained_well(nmt, data, tmp_path / "model", "--resume", "--max-updates", "8")
    assert_same_run(tmp_path / "model", whole)
    plain = trained_well(
        nmt, data, tmp_path / "plain", "--log-every", "2", "--validate-every", "3", "--max-updates", "8"
    )
    assert (plain / "model.safetensors").read_bytes() != (whole / "model.safetensors").read_bytes()


def test_a_run_cut_into_single_updates_is_the_same_run(undisturbed: Path, nmt: Nmt, data: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    for last in range(1, 15):
        trained_well(nmt, data, model, *EVENTFUL, "--max-updates", str(last), "--resume")
    assert_same_run(model, undisturbed)


@pytest.mark.parametrize("there", ["nothing", "an empty directory", "a run that saved nothing yet"])
def test_resume_where_nothing_was_saved_starts_afresh(
    there: str, undisturbed: Path, nmt: Nmt, data: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    if there == "an empty directory":
        model.mkdir()
    elif there == "a run that saved nothing yet":
        trained_well(nmt, data, model, *EVENTFUL, "--max-updates", "14")
        for name in ("last", "checkpoints"):
            shutil.rmtree(model / name)
        for name in ("model.safetensors", "best.safetensors"):
            (model / name).unlink()
    trained_well(nmt, data, model, *EVENTFUL, "--max-updates", "14", "--resume")
    assert_same_run(model, undisturbed)


def test_resume_of_a_run_that_ended_changes_nothing(undisturbed: Path, nmt: Nmt, data: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(undisturbed, tmp_path / "model"))
    result = train(nmt, data, model, "--resume")
    assert result.code == 0
    assert "14 updates" in result.err
    assert_same_run(model, undisturbed)


def test_resume_refuses_what_may_not_change_and_names_each_difference(
    undisturbed: Path, nmt: Nmt, data: Path, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(undisturbed, tmp_path / "model"))
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("[model]\nembedding_size = 12\n[train]\nseed = 7\nbatch_tokens = 256\n", encoding="utf-8")
    options = ["--hidden-size", "24", "--dropout", "0.25", "--learning-rate", "0.5", "--accumulate", "2"]
    said = nmt("train", "--data", data, "--model", model, "--resume", "--config", recipe, *options).refusal(2)
    for difference in (
        "--hidden-size 24 (was 16)",
        "--embedding-size 12 (was 8)",
        "--dropout 0.25 (was 0.3)",
        "--learning-rate 0.5 (was 0.05)",
        "--seed 7 (was 1)",
    ):
        assert difference in said
    assert said.count("(was ") == 5  # options repeated with the same value are not listed
    assert tree(model) == tree(undisturbed)


def test_on_resume_what_may_change_does_and_all_else_stays(
    undisturbed: Path, nmt: Nmt, data: Path, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(undisturbed, tmp_path / "model"))
    before = json.loads((model / "config.json").read_text(encoding="utf-8"))
    options = {"max_updates": 15, "patience": 40, "keep": 2, "log_every": 1, "save_every": 5, "show": 0, "average": 0}
    flags = [part for name, value in options.items() for part in ("--" + name.replace("_", "-"), str(value))]
    result = nmt("train", "--data", data, "--model", model, "--resume", *flags)
    assert result.code == 0
    assert "Going on at update 14" in result.err
    after = json.loads((model / "config.json").read_text(encoding="utf-8"))
    for part in (before, after):
        del part["training"]["model"]  # the copy is in another place
    assert after == {**before, "training": {**before["training"], **options, "resume": True}}
    assert progress_of(model)["update"] == 15
    assert [record["update"] for record in log_of(model, "train")][-2:] == [14, 15]


def test_resume_with_the_data_of_another_vocabulary_is_refused(
    undisturbed: Path, nmt: Nmt, other_data: Path, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(undisturbed, tmp_path / "model"))
    said = nmt("train", "--data", other_data, "--model", model, "--resume").refusal(4)
    assert str(other_data) in said
    assert "subword model" in said
    assert tree(model) == tree(undisturbed)


def test_resume_with_other_text_of_the_same_vocabulary_is_refused(
    undisturbed: Path, nmt: Nmt, data: Path, tmp_path: Path
) -> None:
    write_pairs(tmp_path / "corpus/train", digits_and_words(20, seed=5))
    write_pairs(tmp_path / "corpus/valid", digits_and_words(5, seed=6))
    models = ["--source-model", str(data / "source.model"), "--target-model", str(data / "target.model")]
    smaller = make_data(tmp_path / "data-bin", tmp_path / "corpus", *models)
    model = Path(shutil.copytree(undisturbed, tmp_path / "model"))
    said = nmt("train", "--data", smaller, "--model", model, "--resume", "--max-updates", "20").refusal(4)
    assert str(smaller) in said
    assert "--init-from" in said
    fingerprints = [DataDirectory.open(path).training_sha256[:12] for path in (smaller, data)]
    assert all(one in said for one in fingerprints)
    assert fingerprints[0] != fingerprints[1]
    assert tree(model) == tree(undisturbed)


def test_swapped_languages_of_one_vocabulary_are_refused(
    trained: Path, nmt: Nmt, corpus: Path, data: Path, tmp_path: Path
) -> None:
    """Both directions have the same subword models; `--init-from` is allowed with a warning."""
    result = nmt(
        *("preprocess", "-s", "en", "-t", "num", "--train", corpus / "train", "--valid", corpus / "valid"),
        *("--source-model", data / "source.model", "--target-model", data / "target.model"),
        *("--data", tmp_path / "data-bin", "--workers", "1"),
    )
    assert result.code == 0, result.err
    model = Path(shutil.copytree(trained, tmp_path / "model"))
    said = nmt("train", "--data", tmp_path / "data-bin", "--model", model, "--resume").refusal(4)
    assert "data-bin is en to num" in said
    assert "model translates num to en" in said
    assert tree(model) == tree(trained)
    back = tmp_path / "back"
    result = nmt(
        *("train", "--data", tmp_path / "data-bin", "--model", back, "--init-from", trained, "--max-updates", "1"),
        *("--device", "cpu", "--precision", "fp32", "--threads", "1", "--loader-workers", "0"),
    )
    assert result.code == 0, result.err
    assert f"--init-from {trained} translates num to en, the data is en to num" in result.err
    said = nmt("translate", "--model", trained, "--model", back, stdin=b"1\n").refusal(4)
    assert f"{back} translates en to num, {trained} num to en" in said


def test_a_place_where_nothing_may_be_written_costs_one_line(
    nmt: Nmt, corpus: Path, data: Path, trained: Path, unwritable: Path
) -> None:
    files = ("--train", corpus / "train", "--valid", corpus / "valid")
    before = sorted(unwritable.iterdir())
    for arguments in (
        ("train", "--data", data, "--model", unwritable / "model", *TINY, "--max-updates", "1"),
        ("preprocess", "-s", "num", "-t", "en", *files, "--data", unwritable / "data-bin", "--workers", "1"),
        ("translate", "--model", trained, "--alignments", unwritable / "alignments"),
    ):
        result = nmt(*arguments, stdin=b"1\n")
        assert (result.code, result.out) == (6, b""), arguments
        assert result.err.splitlines()[-1].startswith(f"Error: {unwritable}")
        assert "Traceback" not in result.err
    assert sorted(unwritable.iterdir()) == before


# --dry-run


def test_a_dry_run_says_what_training_takes_and_leaves_the_disk_as_it_is(
    trained: Path, nmt: Nmt, data: Path, tmp_path: Path
) -> None:
    options = ["--dry-run", "--max-updates", "300", "--accumulate", "2"]
    result = train(nmt, data, tmp_path / "model", *options)
    assert result.code == 0, result.err
    assert not (tmp_path / "model").exists()
    corpus = DataDirectory.open(data).train
    batches = plan(*corpus.lengths(np.arange(len(corpus))), batch_tokens=256, seed=1, epoch=0)
    assert f"{-(-len(batches) // 2)} updates per epoch" in result.err
    assert "minutes for 300 updates, without validations; --patience may end it sooner" in result.err
    config = ModelConfig(hidden_size=16, embedding_size=8)
    size = DataDirectory.open(data).source_subword.size
    parameters = sum(p.numel() for p in Seq2Seq(config, source_size=size, target_size=size, joint=True).parameters())
    assert f"{parameters:,} parameters, fp32" in result.err
    before = tree(trained)
    endless = ["--max-epochs", "0", "--patience", "0"]
    said = nmt("train", "--data", data, "--model", trained, "--dry-run", *endless, *TINY).err  # over an existing model
    assert f"minutes for {len(batches)} updates, without validations\n" in said  # one epoch
    assert tree(trained) == before


def test_auto_batch_tokens_are_kept_with_the_run(nmt: Nmt, data: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('[train]\nbatch_tokens = "auto"\n', encoding="utf-8")
    options = [option for option in TINY if option not in ("--batch-tokens", "256")]
    for updates, more in (("2", ["--batch-tokens", "auto"]), ("3", ["--config", recipe, "--resume"])):
        result = nmt("train", "--data", data, "--model", model, *options, *more, "--max-updates", updates)
        assert result.code == 0, result.err
        stored = StoredModel.open(model)
        assert (stored.record.batch_tokens, stored.train_config.batch_tokens) == (2048, 0)
    with edited_json(model / "config.json") as about:
        about["batch_tokens"] = "many"
    resumed = nmt("train", "--data", data, "--model", model, *options, "--resume", "--max-updates", "4")
    assert "batch_tokens is 'many'" in resumed.refusal(4)
    number = nmt("train", "--data", data, "--model", tmp_path / "other", *options, "--batch-tokens", "0.5")
    assert number.code == 2


# the model directory


def test_a_directory_that_holds_a_run_is_refused_without_resume_or_overwrite(
    undisturbed: Path, nmt: Nmt, data: Path, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(undisturbed, tmp_path / "model"))
    said = train(nmt, data, model, "--max-updates", "1").refusal(4)
    assert "--resume" in said
    assert "--overwrite" in said
    assert tree(model) == tree(undisturbed)


def test_overwrite_replaces_a_run(undisturbed: Path, nmt: Nmt, data: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(undisturbed, tmp_path / "model"))
    trained_well(nmt, data, model, "--overwrite", "--max-updates", "1", "--dropout", "0")
    alone = trained_well(nmt, data, tmp_path / "alone", "--max-updates", "1", "--dropout", "0")
    assert_same_run(model, alone)


@pytest.mark.parametrize("option", [[], ["--overwrite"], ["--resume"]], ids=lambda option: "".join(option) or "bare")
@pytest.mark.parametrize(
    ("name", "content"),
    [("thesis.tex", b"years of work"), ("config.json", b'{"model_type": "bert"}'), ("config.json", b"\xff\xfe\0")],
)
def test_what_is_not_ours_is_never_removed(
    name: str, content: bytes, option: list[str], nmt: Nmt, data: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    (model / "figures").mkdir(parents=True)
    (model / name).write_bytes(content)
    assert str(model) in train(nmt, data, model, *option, "--max-updates", "1").refusal(4)
    assert tree(model) == {name: content}


def test_a_model_directory_that_is_a_file_is_refused(nmt: Nmt, data: Path, tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.write_text("text", encoding="utf-8")
    for option in ([], ["--overwrite"], ["--resume"]):
        assert "is a file" in train(nmt, data, path, *option).refusal(4)
    assert path.read_text(encoding="utf-8") == "text"


MISTAKES = {
    "no such data": (["--data", "/nonexistent/data"], 4),
    "no such device": (["--device", "abacus"], 2),
    "a shape that the data does not allow": (["--tie-embeddings", "all"], 2),
    "sampling words": (["--subword-alpha", "0.1"], 2),
    "no such model to start from": (["--init-from", "/nonexistent/model"], 4),
    "no TensorBoard": (["--tensorboard", "events"], 2),
    "no such vectors": (["--source-vectors", "/nonexistent/vectors"], 3),
    "two starts": (["--target-vectors", "vectors", "--init-from", "model"], 2),
}


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("there", ["nothing", "a run"])
def test_a_run_that_cannot_start_leaves_the_directory_as_it_was(
    mistake: str,
    there: str,
    undisturbed: Path,
    nmt: Nmt,
    other_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options, code = MISTAKES[mistake]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    monkeypatch.chdir(tmp_path)
    model = tmp_path / "model"
    if there == "a run":
        shutil.copytree(undisturbed, model)
        options = [*options, "--overwrite"]
    said = train(nmt, other_data, model, "--max-updates", "1", *options).refusal(code)
    assert "Traceback" not in said
    assert (tree(model) == tree(undisturbed)) if there == "a run" else not model.exists()
    assert [path.name for path in tmp_path.iterdir()] in ([], ["model"])


# starting from another model


def test_a_validation_at_the_end_out_of_turn_leaves_nothing_for_the_run_that_goes_on(
    nmt: Nmt, data: Path, tmp_path: Path
) -> None:
    """Such a validation may be the best so far, and its checkpoint the latest; an uninterrupted run has neither."""
    for seed in ("1", "2", "3"):
        options = ["--seed", seed, "--validate-every", "4", "--validation-metric", "loss", "--log-every", "2"]
        options += ["--average", "2", "--keep", "1", "--learning-rate", "0.03", "--decay", "none"]
        whole = trained_well(nmt, data, tmp_path / f"whole {seed}", *options, "--max-updates", "12")
        model = tmp_path / f"model {seed}"
        for updates in ("5", "7", "10", "11", "12"):
            trained_well(nmt, data, model, *options, "--resume", "--max-updates", updates)
        assert_same_run(model, whole)


def test_a_run_goes_on_with_its_own_number_of_threads(nmt: Nmt, data: Path, tmp_path: Path) -> None:
    """Another number of threads would sum in another order."""
    model = tmp_path / "model"
    trained_well(nmt, data, model, "--max-updates", "2", "--threads", "1")
    torch.set_num_threads(2)
    result = nmt("train", "--data", data, "--model", model, "--resume", "--max-updates", "3")
    assert "1 threads" in result.err
    assert torch.get_num_threads() == 1


def test_init_from_starts_from_the_other_models_weights(trained: Path, nmt: Nmt, data: Path, tmp_path: Path) -> None:
    """With a learning rate of 0, the run ends with the weights that it started from."""
    options = ("--init-from", trained, "--hidden-size", "32", "--embedding-size", "16", "--max-updates", "2")
    model = trained_well(nmt, data, tmp_path / "model", *options, "--learning-rate", "0")
    assert (model / "model.safetensors").read_bytes() == (trained / "model.safetensors").read_bytes()
    assert progress_of(model)["update"] == 2


def test_init_from_refuses_another_vocabulary_and_another_shape(
    trained: Path, nmt: Nmt, data: Path, other_data: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    said = train(nmt, other_data, model, "--init-from", trained).refusal(4)
    assert f"--source-model {trained}/source.model" in said
    said = train(nmt, data, model, "--init-from", trained).refusal(4)  # TINY has hidden size 16, not 32
    assert f"--init-from {trained} has another shape than this model with --hidden-size 16, --embedding-size 8" in said
    assert not model.exists()


def test_the_shape_of_the_model_to_start_from_is_the_default(
    trained: Path, nmt: Nmt, data: Path, tmp_path: Path
) -> None:
    options = ["--learning-rate", "0", "--max-updates", "1", "--threads", "1", "--dropout", "0.25"]
    result = nmt("train", "--data", data, "--model", tmp_path / "model", "--init-from", trained, *options)
    assert result.code == 0, result.err
    assert (tmp_path / "model/model.safetensors").read_bytes() == (trained / "model.safetensors").read_bytes()
    shapes = [json.loads((path / "config.json").read_text())["model"] for path in (trained, tmp_path / "model")]
    assert shapes[1] == {**shapes[0], "dropout": 0.25}


def test_a_run_may_start_from_the_one_that_it_replaces(model: Path, trained: Path, nmt: Nmt, data: Path) -> None:
    options = ("--init-from", model, "--overwrite", "--hidden-size", "32", "--embedding-size", "16")
    trained_well(nmt, data, model, *options, "--max-updates", "1", "--learning-rate", "0")
    assert (model / "model.safetensors").read_bytes() == (trained / "model.safetensors").read_bytes()


def test_a_resumed_run_does_not_start_again_from_the_other_model(
    trained: Path, nmt: Nmt, data: Path, tmp_path: Path
) -> None:
    options = ("--init-from", trained, "--hidden-size", "32", "--embedding-size", "16", "--resume")  # as in a requeue
    whole = trained_well(nmt, data, tmp_path / "whole", *options, "--max-updates", "4")
    trained_well(nmt, data, tmp_path / "model", *options, "--max-updates", "2")
    trained_well(nmt, data, tmp_path / "model", *options, "--max-updates", "4")
    assert_same_run(tmp_path / "model", whole)


def test_embeddings_start_from_vectors_of_each_side(nmt: Nmt, other_data: Path, tmp_path: Path) -> None:
    """With a learning rate of 0, the run ends with the vectors, scaled to the size of random embeddings."""
    subwords = DataDirectory.open(other_data)
    options = ["--embedding-size", "4", "--learning-rate", "0", "--max-updates", "1", "--tie-embeddings", "target"]
    plain = trained_well(nmt, other_data, tmp_path / "plain", *options)
    for side, vectors in (("source", [1, -2, 3, -4]), ("target", [5, 6, 7, 8])):
        subword = subwords.source_subword if side == "source" else subwords.target_subword
        piece = subword.pieces([9])[0]
        word = piece.removeprefix("▁")
        (tmp_path / side).write_text(f"1 4\n{word} {' '.join(map(str, vectors))}\n", encoding="utf-8")
        model = tmp_path / f"model-{side}"
        result = train(nmt, other_data, model, *options, f"--{side}-vectors", tmp_path / side)
        assert result.code == 0, result.err
        assert f"{tmp_path / side} has vectors for 1 of {subword.size} pieces" in result.err
        started, _ = read_tensors(model / "model.safetensors")
        random, _ = read_tensors(plain / "model.safetensors")
        changed = {name for name in random if not torch.equal(started[name], random[name])}
        assert changed == {f"{side}_embedding.weight"}
        matrix, before = started[f"{side}_embedding.weight"], random[f"{side}_embedding.weight"]
        assert (matrix != before).any(dim=1).nonzero().flatten().tolist() == [9]
        factor = before.square().mean().sqrt() / torch.tensor(vectors, dtype=torch.float32).square().mean().sqrt()
        torch.testing.assert_close(matrix[9], torch.tensor(vectors) * factor)


def test_where_both_sides_share_a_matrix_the_target_has_the_last_word(nmt: Nmt, data: Path, tmp_path: Path) -> None:
    piece = DataDirectory.open(data).target_subword.pieces([300])[0]
    for name, number in (("source", -1), ("target", 1)):
        (tmp_path / name).write_text(f"{piece} {number} {number}\n", encoding="utf-8")
    options = ["--embedding-size", "2", "--learning-rate", "0", "--max-updates", "1", "--ema", "0.9"]
    options += ["--source-vectors", str(tmp_path / "source"), "--target-vectors", str(tmp_path / "target")]
    model = trained_well(nmt, data, tmp_path / "model", *options)
    started, _ = read_tensors(model / "model.safetensors")  # the running mean starts from the vectors, too
    assert started["source_embedding.weight"][300].gt(0).all()


# other options


def test_max_epochs_and_time_limit_and_rates_hold_on_the_command_line(nmt: Nmt, data: Path, tmp_path: Path) -> None:
    result = train(nmt, data, tmp_path / "epochs", "--max-epochs", "1", "--warmup", "5", "--decay", "inverse-sqrt")
    assert "Done after 1 epoch." in result.err
    assert progress_of(tmp_path / "epochs")["epoch"] == 1
    result = train(nmt, data, tmp_path / "time", "--time-limit", "0.0001", "--save-every", "0")
    assert "Done after the time limit" in result.err
    assert progress_of(tmp_path / "time")["update"] == 1
    assert (tmp_path / "time/model.safetensors").exists()
    options = ["--warmup", "3", "--decay", "linear", "--max-updates", "6", "--log-every", "1"]
    model = trained_well(nmt, data, tmp_path / "linear", *options)
    rates = [Schedule(peak=0.001, warmup=3, decay="linear", max_updates=6).rate(n) for n in range(1, 7)]
    assert [record["learning_rate"] for record in log_of(model, "train")] == rates


def test_training_that_diverges_ends_with_one_error_and_exit_5(nmt: Nmt, data: Path, tmp_path: Path) -> None:
    options = ["--learning-rate", "1e38", "--decay", "none", "--max-updates", "30", "--clip-norm", "0"]
    result = train(nmt, data, tmp_path / "model", *options)
    assert result.code == 5
    *warnings, error = result.err.splitlines()[1:]
    assert all(line.startswith("Warning: update ") for line in warnings)
    assert error.startswith("Error: 10 updates in a row were not finite")


def test_quiet_training_says_nothing(nmt: Nmt, data: Path, tmp_path: Path) -> None:
    assert train(nmt, data, tmp_path / "model", "-q", "--max-updates", "2", "--log-every", "1") == (0, b"", "")


def test_a_run_tells_how_it_goes_and_shows_translations(nmt: Nmt, data: Path, tmp_path: Path) -> None:
    result = train(nmt, data, tmp_path / "model", "--max-updates", "4", "--log-every", "2", "--show", "2")
    said = result.err.splitlines()
    assert "600 training pairs, 40 validation pairs" in said[0]
    assert [line.split("  ")[0] for line in said if line.startswith("update ")] == ["update 2", "update 4"]
    assert sum(line.startswith("    hypothesis  ") for line in said) == 2
    assert any(line.startswith("validation at update 4: loss ") and "BLEU" in line for line in said)
    assert said[-1].endswith(f"nmt translate --model {tmp_path / 'model'} < input.txt")


def test_on_a_terminal_there_is_a_bar(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    options = ["--max-updates", "4", "--log-every", "1", "--time-limit", "9"]
    assert cli.run(["train", "--data", str(data), "--model", str(tmp_path / "model"), *TINY, *options]) == 0
    said = terminal.getvalue()
    assert "training" in said
    assert "\x1b[" in said
    assert "tokens/s" in said
    assert "\nupdate 1 " not in said  # log lines are for files only


def test_tensorboard_without_its_package_costs_one_line(
    nmt: Nmt, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    said = train(nmt, data, tmp_path / "model", "--tensorboard", tmp_path / "events").refusal(2)
    assert "nmtcli[tensorboard]" in said


def test_tensorboard_gets_the_numbers_of_the_log(nmt: Nmt, data: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    model = tmp_path / "model"
    options = ("--max-updates", "4", "--log-every", "2", "--tensorboard", tmp_path / "events")
    trained_well(nmt, data, model, *options)
    (file,) = (tmp_path / "events").iterdir()
    found = {}
    for event in EventFileLoader(str(file)).Load():
        for value in event.summary.value:
            found[value.tag, event.step] = value.tensor.float_val[0] if value.tensor.float_val else value.simple_value
    expected = {}
    for record in log_of(model):
        for name in ("loss", "nll", "learning_rate", "gradient_norm", "perplexity", "bleu", "chrf"):
            if name in record:
                expected[f"{record['kind']}/{name}", record["update"]] = record[name]
    rates = {key: value for key, value in found.items() if key[0] == "train/tokens_per_second"}
    assert len(rates) == 2
    assert {key: value for key, value in found.items() if key not in rates} == pytest.approx(expected, rel=1e-5)


def test_a_model_learns_to_translate_numbers_into_words(nmt: Nmt, data: Path, corpus: Path, tmp_path: Path) -> None:
    """From 600 pairs, in seconds; no test sentence is among them."""
    model = tmp_path / "model"
    options = ["--hidden-size", "48", "--embedding-size", "32", "--learning-rate", "0.01", "--dropout", "0.1"]
    limits = ["--max-updates", "800", "--max-epochs", "0", "--patience", "0", "--decay", "linear"]
    trained_well(nmt, data, model, *options, *limits, "--batch-tokens", "512", "--show", "0")
    losses = [record["nll"] for record in log_of(model, "train")]
    assert losses[-1] < 0.2 < 1.0 < losses[0]
    text = (corpus / "test.num").read_bytes()
    translated = nmt("translate", "--model", model, "--threads", "1", stdin=text)
    scored = nmt("score", "--ref", corpus / "test.en", "--json", stdin=translated.out)
    assert json.loads(scored.out)["systems"][0]["scores"]["BLEU"]["score"] > 95


# interruptions


def started(data: Path, model: Path, *options: str) -> "subprocess.Popen[str]":
    """A training process in its own process group, after five updates."""
    command = [sys.executable, "-m", "nmtcli", "train", "--data", str(data), "--model", str(model), *TINY]
    process = subprocess.Popen(
        [*command, "--log-every", "1", "--validate-every", "100000", "--max-epochs", "0", *options],
        stderr=subprocess.PIPE,
        encoding="utf-8",
        start_new_session=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("update 5 "):
            break
    return process


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "SIGTERM"])
def test_a_signal_ends_it_saved_and_resume_goes_on_as_if_nothing_had_been(
    number: signal.Signals, code: int, nmt: Nmt, data: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    process = started(data, model, "--loader-workers", "1", "--subword-alpha", "0.2")
    os.killpg(process.pid, number)  # terminals and schedulers signal the whole group, loader workers included
    _, said = process.communicate(timeout=60)
    assert process.returncode == code
    last = said.splitlines()[-1]
    update = progress_of(model)["update"]
    assert update >= 5
    assert f"Stopped at update {update:,}" in last
    assert "nmt train --resume" in last
    assert "Traceback" not in said
    assert not list((model / "last").glob("*.tmp"))

    more = ["--max-updates", str(update + 3)]
    trained_well(nmt, data, model, "--resume", *more)
    common = ["--subword-alpha", "0.2", "--log-every", "1", "--validate-every", "100000", "--max-epochs", "0"]
    assert_same_run(model, trained_well(nmt, data, tmp_path / "undisturbed", *common, *more))


def test_a_loader_that_dies_ends_it_with_one_line_and_exit_6(data: Path, tmp_path: Path) -> None:
    process = started(data, tmp_path / "model", "--loader-workers", "1", "--save-every", "1")
    (worker,) = (child for child in psutil.Process(process.pid).children() if child.name() != "resource_tracker")
    worker.kill()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 6, said
    assert said.splitlines()[-1].startswith("Error: a process that prepares batches died")
    assert "Traceback" not in said


def test_a_killed_run_leaves_no_process_and_goes_on_from_its_last_save(nmt: Nmt, data: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    process = started(data, model, "--save-every", "2", "--loader-workers", "2")
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 2
    process.kill()
    process.communicate(timeout=60)
    _, alive = psutil.wait_procs(children, timeout=60)
    assert alive == []
    update = progress_of(model)["update"]
    assert update >= 4
    assert update % 2 == 0
    more = ["--max-updates", str(update + 2)]
    trained_well(nmt, data, model, "--resume", *more)
    common = ["--log-every", "1", "--validate-every", "100000", "--max-epochs", "0"]
    assert_same_run(model, trained_well(nmt, data, tmp_path / "undisturbed", *common, *more))


def test_a_disk_that_fills_up_ends_it_with_one_line_and_exit_6(
    nmt: Nmt, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "model"
    trained_well(nmt, data, model, "--max-updates", "2")
    before = tree(model)

    def full(_: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    result = nmt("train", "--data", data, "--model", model, "--resume", "--max-updates", "4")
    assert result.code == 6
    assert result.err.splitlines()[-1].startswith("Error: ")
    assert "No space left on device" in result.err.splitlines()[-1]
    monkeypatch.undo()
    after = tree(model)
    assert {name: after[name] for name in before if name != "log.jsonl"} == {
        name: before[name] for name in before if name != "log.jsonl"
    }


def test_deterministic_training_is_the_same_on_a_cpu_and_ends_with_the_run(
    nmt: Nmt, data: Path, tmp_path: Path
) -> None:
    for name, options in (("one", []), ("other", ["--deterministic"])):
        trained_well(nmt, data, tmp_path / name, "--max-updates", "2", *options)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "other")]
    assert weights[0] == weights[1]
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_directory_that_is_trained_in_is_refused_and_a_killed_ones_is_not(
    nmt: Nmt, data: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    command = [sys.executable, "-m", "nmtcli", "train", "--data", data, "--model", model, *TINY, "--max-epochs", "1000"]
    with subprocess.Popen([str(part) for part in command], stderr=subprocess.DEVNULL) as process:
        while not (model / "lock").exists() or not (model / "config.json").exists():
            assert process.poll() is None
        for option in ("--resume", "--overwrite"):
            said = train(nmt, data, model, option, "--max-updates", "1").refusal(6)
            assert f"is in use: process {process.pid} on " in said
        assert process.poll() is None
        process.kill()
    trained_well(nmt, data, model, "--resume", "--max-updates", "1")
    assert not (model / "lock").exists()
