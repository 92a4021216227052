import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nmtcli.cli import run
from nmtcli.commands import passes, preprocess
from nmtcli.config import PreprocessConfig
from nmtcli.console import Console
from nmtcli.data import writing
from nmtcli.data.corpus import DataDirectory
from nmtcli.data.subword import UNK, Subword, learn
from nmtcli.data.writing import ArrayWriter, Unfinished
from tests.oracles import ids_of

WORDS = "the a old young man woman dog sea house of in sees goes and , . station car red blue".split()  # noqa: SIM905


def sentences(count: int, seed: int, words: list[str] = WORDS) -> list[str]:
    generator = random.Random(seed)
    return [" ".join(generator.choices(words, k=generator.randint(1, 12))) for _ in range(count)]


def write(prefix: Path, source: list[str], target: list[str]) -> str:
    for lang, lines in (("de", source), ("en", target)):
        prefix.with_name(f"{prefix.name}.{lang}").write_bytes("".join(f"{line}\n" for line in lines).encode())
    return str(prefix)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("model") / "bpe.model"
    learn(sentences(200, 0), path, kind="bpe", vocab_size=300, normalization="identity", character_coverage=1.0)
    return str(path)


class Place:
    """A folder with a small parallel corpus; runs `nmt preprocess` on it, with a ready subword model to save time."""

    def __init__(self, folder: Path, model: str) -> None:
        self.folder, self.model = folder, model
        self.data = folder / "data-bin"
        self.source, self.target = sentences(300, 1), sentences(300, 2)
        write(folder / "train", self.source, self.target)
        write(folder / "valid", ["", "the  old man ", "\u2028"], ["the dog", "", " "])

    def train(self, source: list[str], target: list[str]) -> None:
        self.source, self.target = source, target
        write(self.folder / "train", source, target)

    def arguments(self, *more: str, learn: bool = False) -> list[str]:
        folder = self.folder
        given = [] if learn else ["--source-model", self.model, "--target-model", self.model]
        places = ["--train", f"{folder}/train", "--valid", f"{folder}/valid", "--data", f"{self.data}"]
        return ["preprocess", "-s", "de", "-t", "en", *places, *given, *more]

    def run(self, *more: str, learn: bool = False) -> int:
        return run(self.arguments(*more, learn=learn))

    def texts(self) -> list[tuple[str, str]]:
        opened = DataDirectory.open(self.data)
        return [
            (opened.source_subword.decode(source), opened.target_subword.decode(target))
            for source, target in ids_of(opened.train)
        ]

    def cleaning(self) -> dict[str, int]:
        counts: dict[str, int] = DataDirectory.open(self.data).meta["cleaning"]
        return counts


@pytest.fixture
def place(tmp_path: Path, model: str) -> Place:
    return Place(tmp_path, model)


def files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_raw_text_becomes_a_data_directory(place: Place, capfd: pytest.CaptureFixture[str]) -> None:
    write(place.folder / "test", ["ä"], ["a"])
    assert place.run("--test", f"{place.folder}/test", "--test", f"{place.folder}/valid", learn=True) == 0
    opened = DataDirectory.open(place.data)
    assert place.texts() == list(zip(place.source, place.target, strict=True))
    assert opened.joint
    assert opened.source_subword.kind == opened.meta["subword"] == "unigram"
    assert opened.valid == [("", "the dog"), ("the  old man ", ""), ("\u2028", " ")] == opened.test(2)
    assert opened.test(1) == [("ä", "a")]
    assert opened.meta["vocabulary_sizes"] == dict.fromkeys(("source", "target"), opened.source_subword.size)
    assert opened.meta["tokens"]["source"] == sum(len(source) for source, _ in ids_of(opened.train))
    assert opened.meta["config"]["train"] == [f"{place.folder}/train"]
    assert os.listdir(place.folder).count("data-bin") == 1
    assert not list(place.folder.glob("data-bin.*"))
    out, err = capfd.readouterr()
    assert out == ""
    sizes = f"{opened.source_subword.size:,} pieces instead of 8,000"
    assert f"Note: the vocabulary of de and en has {sizes}: the text has no more" in err
    assert "pairs read             300" in err
    assert "kept                   300" in err


def test_learning_again_with_other_workers_gives_the_same_bytes(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "PAIRS_AT_ONCE", 40)
    monkeypatch.setattr(passes, "QUICK", 0)
    found = []
    for workers in ("1", "2"):
        options = ["--workers", workers, "--overwrite", "--dedup", "--max-length", "9", "--max-ratio", "2.5"]
        assert place.run(*options, "--vocab-size", "300", learn=True) == 0
        found.append(files(place.data))
    assert found[0] == found[1]
    assert 0 < place.cleaning()["too_long"] < 300


def test_each_language_may_have_its_vocabulary(place: Place) -> None:
    place.train(sentences(300, 1, ["rot", "blau"]), sentences(300, 2, ["red", "blue", "green"]))
    assert place.run("--subword", "none", "--separate", learn=True) == 0
    opened = DataDirectory.open(place.data)
    assert not opened.joint
    assert set(opened.source_subword.pieces(range(4, opened.source_subword.size))) == {"▁rot", "▁blau"}
    assert set(opened.target_subword.pieces(range(4, opened.target_subword.size))) == {"▁red", "▁blue", "▁green"}


def test_the_vocabulary_does_not_depend_on_the_order_or_the_repetition_of_pairs(place: Place) -> None:
    options = ["--sentences-for-vocab", "100", "--vocab-size", "300", "--overwrite", "--subword", "bpe"]
    assert place.run(*options, learn=True) == 0
    first = (place.data / "source.model").read_bytes()
    pairs = list(zip(place.source, place.target, strict=True)) * 2
    random.Random(1).shuffle(pairs)
    place.train([source for source, _ in pairs], [target for _, target in pairs])
    assert place.run(*options, learn=True) == 0
    assert (place.data / "source.model").read_bytes() == first


def test_several_training_texts_are_one_after_the_other(place: Place) -> None:
    write(place.folder / "more", ["the sea"], ["a dog"])
    (place.folder / "last.tsv").write_text("the old\tman\n")
    assert place.run("--train", f"{place.folder}/more", "--train", f"{place.folder}/last.tsv") == 0
    assert place.texts()[-2:] == [("the sea", "a dog"), ("the old", "man")]
    assert len(place.texts()) == 302


def test_empty_sides_are_dropped_and_never_shift_pairs(place: Place) -> None:
    place.train(
        ["one", "", "three", " \u2028", "five", "▁", "\u200b", "nul \0"], ["1", "2", "\x85", "4", "5", "6", "7", "8"]
    )
    assert place.run() == 0
    assert place.texts() == [("one", "1"), ("five", "5"), ("\u200b", "7"), ("nul \0", "8")]
    assert place.cleaning() == {"read": 8, "empty": 4, "duplicate": 0, "too_long": 0, "ratio": 0, "kept": 4}


def test_only_a_line_feed_ends_a_line_of_training_text(place: Place) -> None:
    lines = ["a\u2028b", "c\x85d", "e\x0bf\x0cg", "h\0i", "j k"]
    place.folder.joinpath("train.de").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    place.folder.joinpath("train.en").write_bytes("\n".join(lines).encode() + b"\n")
    assert place.run() == 0
    assert place.texts() == [(line, line) for line in lines]


def test_duplicates_are_those_of_a_naive_loop(place: Place) -> None:
    place.train(random.Random(1).choices(["a", "b c", "d e", "", "f"], k=200), random.Random(2).choices("xyz", k=200))
    assert place.run("--dedup") == 0
    distinct = [pair for pair in dict.fromkeys(zip(place.source, place.target, strict=True)) if pair[0]]
    assert place.texts() == distinct
    report = place.cleaning()
    assert report["kept"] == len(distinct)
    assert report["empty"] == place.source.count("")
    assert report["read"] == 200 == report["kept"] + report["empty"] + report["duplicate"]
    assert place.run("--overwrite") == 0
    assert len(place.texts()) == 200 - place.source.count("")


def test_limits_count_tokens_without_eos(place: Place) -> None:
    place.train(["a b c d", "a b c d e", "a", "a b"], ["a", "a", "a b c d", "a b c d"])
    options = ["--subword", "none", "--overwrite", "--max-length", "4"]
    assert place.run(*options, learn=True) == 0
    assert place.cleaning() == {"read": 4, "empty": 0, "duplicate": 0, "too_long": 1, "ratio": 0, "kept": 3}
    assert place.run(*options, "--max-ratio", "2", learn=True) == 0
    assert place.cleaning() == {"read": 4, "empty": 0, "duplicate": 0, "too_long": 1, "ratio": 2, "kept": 1}
    assert place.texts() == [("a b", "a b c d")]


def test_unknown_words_are_kept_as_unk_and_said(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    place.train(["a a b", "a c"], ["a b a", "b"])
    write(place.folder / "valid", ["a z"], ["a b"])
    assert place.run("--subword", "none", "--vocab-size", "6", learn=True) == 0
    opened = DataDirectory.open(place.data)
    assert opened.train[1][0].tolist().count(UNK) == 1
    assert f"Note: 50.0% of the words of {place.folder}/valid.de are not in the vocabulary" in capsys.readouterr().err


def test_given_models_are_copied(place: Place, tmp_path: Path) -> None:
    assert place.run() == 0
    opened = DataDirectory.open(place.data)
    assert opened.joint
    assert opened.meta["subword"] == "bpe"
    assert (place.data / "target.model").read_bytes() == Path(place.model).read_bytes()
    words = tmp_path / "words.model"
    learn(place.target, words, kind="none", vocab_size=0, normalization="identity", character_coverage=1.0)
    assert place.run("--target-model", str(words), "--overwrite") == 0
    opened = DataDirectory.open(place.data)
    assert not opened.joint
    assert (opened.source_subword.kind, opened.target_subword.kind) == ("bpe", "word")


def test_quiet_says_nothing(place: Place, capfd: pytest.CaptureFixture[str]) -> None:
    assert place.run("-q") == 0
    assert capfd.readouterr() == ("", "")


def test_a_data_directory_is_replaced_only_with_overwrite(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert place.run() == 0
    before = files(place.data)
    assert place.run() == 4
    assert "already exists. Use --overwrite or --append, or name another one with --data." in capsys.readouterr().err
    place.folder.joinpath("train.de").unlink()
    assert place.run("--overwrite") == 3
    assert files(place.data) == before


def test_another_folder_is_never_replaced(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    place.data.mkdir()
    (place.data / "thesis.tex").write_text("mine")
    assert place.run("--overwrite") == 4
    assert "exists and is not a data directory" in capsys.readouterr().err
    assert files(place.data) == {"thesis.tex": b"mine"}


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--train", "-"], 2, "the text cannot come from stdin, because it is read twice. Name files."),
        (["--train", "nothing"], 3, "nothing.de does not exist (nor with .gz .bz2 .xz .zst)."),
        (["--valid", "nothing"], 3, "nothing.de does not exist"),
        (["--test", "nothing"], 3, "nothing.de does not exist"),
        (["--source-model", "nothing.model"], 4, "nothing.model does not exist."),
        (["-t", "de"], 2, "source and target language are both `de`."),
        (["--max-ratio", "0.5"], 2, "--max-ratio must be 0 (off) or at least 1, but is 0.5."),
        (["--max-length", "-1"], 2, "--max-length must be at least 0, but is -1."),
        (["--subword", "words"], 2, "Invalid value for '--subword'"),
        (["--vocab-size", "0"], 2, "--vocab-size 0 needs --subword word or none, but --subword is unigram."),
        (["--drop-empty"], 2, "No such option '--drop-empty'"),
        (["--valid", ""], 2, "Missing option '--valid'. Only --append works without it."),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    place: Place, capsys: pytest.CaptureFixture[str], options: list[str], code: int, message: str
) -> None:
    before = sorted(os.listdir(place.folder))
    assert place.run(*options) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("Error: ")
    assert err.count("\n") == 1
    assert message in err
    assert sorted(os.listdir(place.folder)) == before


@pytest.mark.parametrize("name", ["train", "valid", "test"])
def test_unequal_files_are_refused_with_both_counts(
    place: Place, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    prefix = write(place.folder / name, ["a"] * 1200, ["b"] * 1199)
    assert place.run("--test", f"{place.folder}/{name}") == 3
    counts = f"{prefix}.de has 1,200 lines, but {prefix}.en has 1,199"
    assert capsys.readouterr().err == f"Error: {counts}. Parallel files must have the same number of lines.\n"
    assert not place.data.exists()


def test_bad_utf_8_is_refused_with_its_place(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    (place.folder / "train.en").write_bytes(b"good\nb\xe4d\n")
    (place.folder / "train.de").write_bytes(b"good\nbad\n")
    assert place.run() == 3
    assert f"{place.folder}/train.en, line 2: byte 2 (0xE4) is not UTF-8." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("source", "target", "options", "message"),
    [
        ([], [], [], "the training text has no lines. Check --train."),
        (["", "a"], ["b", " "], [], "none of 2 training pairs is left (empty 2)."),
        (["a b c d"] * 2, ["b"] * 2, ["--max-length", "2", "--dedup"], "(duplicate 1, too_long 1)"),
        (["a b c d"], ["b"], ["--max-ratio", "1.5"], "none of 1 training pairs is left (ratio 1)."),
    ],
)
def test_a_corpus_of_which_nothing_is_left_is_refused(
    place: Place,
    capsys: pytest.CaptureFixture[str],
    source: list[str],
    target: list[str],
    options: list[str],
    message: str,
) -> None:
    place.train(source, target)
    assert place.run(*options) == 3
    assert message in capsys.readouterr().err
    assert not list(place.folder.glob("data-bin*"))


def test_an_empty_validation_text_is_refused(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    write(place.folder / "valid", [], [])
    assert place.run() == 3
    assert f"{place.folder}/valid has no lines." in capsys.readouterr().err


def test_what_is_wrong_while_learning_is_said_as_anywhere(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert place.run("--vocab-size", "262", learn=True) == 2
    assert "--vocab-size 262 is too small: characters, bytes and special pieces alone are" in capsys.readouterr().err
    assert not list(place.folder.glob("data-bin*"))


def test_text_that_changes_between_the_passes_is_refused(
    place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first_pass = passes.first_pass

    def then_change(
        config: PreprocessConfig,
        console: Console,
        unfinished: Unfinished,
        state: passes.PassState,
        old: DataDirectory | None,
    ) -> None:
        first_pass(config, console, unfinished, state, old)
        place.train(place.source[:10], place.target[:10])

    monkeypatch.setattr(preprocess, "first_pass", then_change)
    assert place.run("--dedup") == 3
    assert "the training text changed during the run, from 300 to 10 pairs." in capsys.readouterr().err


def test_a_dead_worker_is_said(
    place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passes, "PAIRS_AT_ONCE", 100)
    with monkeypatch.context() as patched:
        patched.setattr(passes, "Encoder", lambda *_, **__: os._exit)  # os._exit fails when it is called with a block
        assert place.run("--workers", "2") == 6
    assert capsys.readouterr().err == (
        f"{place.data}.partial keeps the progress; run the same command again to resume\n"
        "Error: a worker process died. It may have run out of memory: use fewer --workers.\n"
    )
    assert [path.name for path in place.folder.glob("data-bin*")] == ["data-bin.partial"]
    assert place.run() == 0
    assert [path.name for path in place.folder.glob("data-bin*")] == ["data-bin"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_a_killed_run_leaves_no_data_directory_and_no_process(place: Place, number: int, code: int) -> None:
    place.train(place.source * 200, place.target * 200)
    running = subprocess.Popen(
        [sys.executable, "-m", "nmtcli", *place.arguments("--workers", "2")],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # shells ignore SIGINT in background jobs
    )
    partial = place.folder / "data-bin.partial" / "train.target.offsets.npy"
    while not (partial.exists() and partial.stat().st_size > 1000):
        assert running.poll() is None
        time.sleep(0.01)
    running.send_signal(number)
    _, err = running.communicate(timeout=60)
    assert running.returncode == code
    assert not place.data.exists()
    if number != signal.SIGKILL:
        assert err == (
            f"{place.data}.partial keeps the progress; run the same command again to resume\n"
            f"{'Terminated' if number == signal.SIGTERM else 'Interrupted'}.\n"
        )
    deadline = time.monotonic() + 30
    while _processes_of_group(running.pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert place.run("--workers", "2") == 0
    assert not list(place.folder.glob("data-bin.*"))
    went_on = files(place.data)
    assert place.run("--workers", "1", "--overwrite") == 0
    assert files(place.data) == went_on


@pytest.mark.parametrize("options", [["--dedup", "--user-words", "words"], ["--max-length", "25"]], ids=" ".join)
def test_a_run_that_was_stopped_anywhere_goes_on_to_the_same_bytes(
    place: Place, options: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Stopped before each save in turn: what was written after the previous save is truncated and written again."""
    monkeypatch.chdir(place.folder)
    monkeypatch.setattr(passes, "PAIRS_AT_ONCE", 50)
    monkeypatch.setattr(writing, "SAVE_EVERY", 0)
    write(place.folder / "more", place.target[:70], place.source[:70])
    (place.folder / "words").write_text("station\nhouse\n")
    options = [*options, "--train", "more", "--vocab-size", "300", "--subword", "bpe", "--workers", "1"]
    save, calls = Unfinished.save, 0

    def stopping_at(limit: float) -> None:
        def counted(unfinished: Unfinished, state: dict[str, object]) -> None:
            nonlocal calls
            calls += 1
            if calls == limit:
                raise KeyboardInterrupt
            save(unfinished, state)

        nonlocal calls
        calls = 0
        monkeypatch.setattr(Unfinished, "save", counted)

    stopping_at(math.inf)
    assert place.run(*options, learn=True) == 0
    undisturbed, saves = files(place.data), calls
    assert saves == 17  # 8 blocks in each pass, and the start of the second pass
    for limit in range(1, saves + 1):
        shutil.rmtree(place.data)
        stopping_at(limit)
        assert place.run(*options, learn=True) == 130
        assert ("Interrupted; nothing was written." in capfd.readouterr().err) == (limit == 1)
        stopping_at(math.inf)
        assert place.run(*options, learn=True) == 0
        assert calls <= saves - limit + 2  # saved blocks are not repeated
        assert files(place.data) == undisturbed


def test_text_that_changed_is_not_gone_on_with(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(ArrayWriter, "close", lambda _: os.kill(os.getpid(), signal.SIGTERM))
        assert place.run() == 143
    assert place.folder.joinpath("data-bin.partial").exists()
    place.train(place.source[:10], place.target[:10])
    assert place.run() == 0
    assert len(place.texts()) == 10


@pytest.mark.parametrize("workers", ["1", "2"])
def test_more_text_is_added_with_the_same_vocabulary(
    place: Place, workers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passes, "PAIRS_AT_ONCE", 40)
    monkeypatch.setattr(passes, "HASHES_AT_ONCE", 70)
    assert place.run("--dedup") == 0
    before = DataDirectory.open(place.data).meta
    first = list(dict.fromkeys(place.texts()))
    news = [*sentences(60, 3), *place.source[:20]], [*sentences(60, 4), *place.target[:20]]
    write(place.folder / "news", *news)
    command = ["preprocess", "-s", "de", "-t", "en", "--data", str(place.data), "--append", "--workers", workers]
    assert run([*command, "--train", f"{place.folder}/news", "--dedup", "--max-length", "200"]) == 0
    new = [pair for pair in dict.fromkeys(zip(*news, strict=True)) if pair not in first]
    assert place.texts() == first + new
    opened = DataDirectory.open(place.data)
    opened.verify()
    meta = opened.meta
    assert meta["corpora"] == [
        {"name": f"{place.folder}/train", "pairs": len(first)},
        {"name": f"{place.folder}/news", "pairs": len(new)},
    ]
    assert meta["cleaning"]["read"] == 380
    assert meta["cleaning"]["duplicate"] == 380 - len(first) - len(new)
    assert meta["pairs"] == len(opened.train) == len(first) + len(new)
    assert meta["config"] == before["config"]
    assert [entry["max_length"] for entry in meta["appended"]] == [200]
    for key in ("valid", "test", "vocabulary_sizes", "joint", "subword", "user_words"):
        assert meta[key] == before[key]
    assert opened.valid[1] == ("the  old man ", "")

    assert place.run("--overwrite", "--dedup", "--train", f"{place.folder}/news") == 0  # the same data in a single run
    for name in ("train.source.tokens.npy", "train.target.offsets.npy", "train.hashes.npy"):
        assert opened.meta["sha256"][name] == DataDirectory.open(place.data).meta["sha256"][name]


def test_adding_that_was_stopped_goes_on_and_leaves_what_was_there(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passes, "PAIRS_AT_ONCE", 40)
    monkeypatch.setattr(writing, "SAVE_EVERY", 0)
    assert place.run() == 0
    before = files(place.data)
    write(place.folder / "news", sentences(200, 3), sentences(200, 4))
    command = ["preprocess", "-s", "de", "-t", "en", "--data", str(place.data), "--append", "--workers", "1"]
    command += ["--train", f"{place.folder}/news"]
    save, calls = Unfinished.save, 0

    def stopped(unfinished: Unfinished, state: dict[str, object]) -> None:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        save(unfinished, state)

    with monkeypatch.context() as patched:
        patched.setattr(Unfinished, "save", stopped)
        assert run(command) == 130
    assert files(place.data) == before
    assert run(command) == 0
    assert len(place.texts()) == 500
    DataDirectory.open(place.data).verify()


def test_more_text_is_added_to_a_directory_that_has_an_option_of_earlier_versions(place: Place) -> None:
    assert place.run() == 0
    meta = json.loads((place.data / "meta.json").read_text(encoding="utf-8"))
    meta["config"]["drop_empty"] = True
    (place.data / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
    write(place.folder / "news", sentences(20, 3), sentences(20, 4))
    command = ["preprocess", "-s", "de", "-t", "en", "--data", str(place.data), "--append"]
    assert run([*command, "--train", f"{place.folder}/news"]) == 0
    opened = DataDirectory.open(place.data)
    assert opened.meta["config"] == meta["config"]
    assert "drop_empty" not in opened.meta["appended"][0]
    assert opened.meta["cleaning"]["read"] == 320


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (
            ["--vocab-size", "500"],
            2,
            "{data} was made with --vocab-size 8000, which --append keeps, but --vocab-size is 500.",
        ),
        (["-s", "fr"], 2, "{data} was made with --source-lang de, which --append keeps, but --source-lang is fr."),
        (["--valid", "other"], 2, "but --valid is other. Leave it out."),
        (["--overwrite"], 2, "--append and --overwrite contradict each other. Choose one."),
        (["--dedup"], 4, "{data} was made without --dedup, so it has no hashes to find duplicates by."),
        (["--data", "nothing"], 4, "nothing does not exist. Run nmt preprocess first."),
        (["--train", "nothing"], 3, "nothing.de does not exist (nor with .gz .bz2 .xz .zst)."),
    ],
)
def test_adding_that_cannot_be_is_refused_and_changes_nothing(
    place: Place, capsys: pytest.CaptureFixture[str], options: list[str], code: int, message: str
) -> None:
    assert place.run() == 0
    before = files(place.data)
    capsys.readouterr()
    command = ["preprocess", "-s", "de", "-t", "en", "--data", str(place.data), "--append"]
    assert run([*command, "--train", f"{place.folder}/train", *options]) == code
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert message.format(data=place.data) in err
    assert files(place.data) == before
    assert not list(place.folder.glob("data-bin.*"))


def test_a_local_cluster_gives_the_same_bytes(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    monkeypatch.setattr(passes, "PAIRS_AT_ONCE", 40)
    options = ["--dedup", "--vocab-size", "300", "--subword", "bpe", "--overwrite"]
    assert place.run(*options, "--workers", "1", learn=True) == 0
    alone = files(place.data)
    assert place.run(*options, "--engine", "ray", "--workers", "2", learn=True) == 0
    assert files(place.data) == alone
    (place.folder / "train.en").write_bytes(b"good\nb\xe4d\n")
    (place.folder / "train.de").write_bytes(b"good\nbad\n")
    assert place.run(*options, "--engine", "ray", "--workers", "1") == 3
    assert files(place.data) == alone


def test_a_cluster_that_cannot_be_is_said(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert place.run("--engine", "ray") == 2
    assert "--engine ray needs Ray, which is not installed. pip install nmtcli[ray]." in capsys.readouterr().err
    assert place.run("--ray-address", "head:6379") == 2
    assert "--ray-address needs --engine ray. Give both, or leave it out." in capsys.readouterr().err
    assert not list(place.folder.glob("data-bin*"))


def _processes_of_group(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_the_directory_says_how_it_was_made(place: Place) -> None:
    assert place.run("--max-length", "77", "--workers", "1") == 0
    config = json.loads((place.data / "meta.json").read_text())["config"]
    assert config["max_length"] == 77
    assert not {"workers", "overwrite", "data"} & set(config)


def test_a_model_is_the_one_that_encoded(place: Place) -> None:
    assert place.run() == 0
    assert DataDirectory.open(place.data).source_subword.sha256 == Subword.load(place.model).sha256


def user_words(place: Place, words: list[str]) -> list[str]:
    (place.folder / "words").write_text("".join(f"{word}\t1\n" for word in words), encoding="utf-8")
    return ["--user-words", f"{place.folder}/words"]


@pytest.mark.parametrize("joint", ["--joint", "--separate"])
def test_words_of_a_list_that_the_text_holds_become_pieces(
    joint: str, place: Place, capfd: pytest.CaptureFixture[str]
) -> None:
    place.train(["我在北京大学学习"] * 6 + ["长江大桥在南京"] * 4, ["I study at PKU"] * 6 + ["the bridge"] * 4)
    given = user_words(place, ["北京大学", "长江大桥", "南京", "东京", "study", "的"])
    assert place.run(*given, "--user-words-min", "5", joint, learn=True) == 0
    opened = DataDirectory.open(place.data)
    pieces = opened.source_subword.pieces(opened.source_subword.encode("北京大学和长江大桥"))
    assert "北京大学" in pieces
    assert "长江大桥" not in pieces  # occurs only four times
    both = {"pieces": 2, "rare": 3, "beyond": 0}
    one = {"pieces": 1, "rare": 4, "beyond": 0}
    report = {"source": both, "target": both} if joint == "--joint" else {"source": one, "target": one}
    assert opened.meta["user_words"] == {"read": 6, "unusable": 1, **report}
    err = capfd.readouterr().err
    assert "user words: 6 read, 1 of them cannot be pieces" in err
    assert (
        f"de: {report['source']['pieces']} became pieces; left out: {report['source']['rare']} that occur fewer" in err
    )


def test_user_words_take_half_the_vocabulary_at_most(place: Place) -> None:
    lefts, rights = ([chr(first + number) for number in range(20)] for first in (0x4E00, 0x5000))
    words = [left + right for left in lefts for right in rights]
    place.train(["，".join(words)] * 5, ["x"] * 5)
    assert place.run(*user_words(place, words), "--vocab-size", "700", "--max-length", "0", learn=True) == 0
    opened = DataDirectory.open(place.data)
    assert opened.meta["user_words"]["source"] == {"pieces": 350, "rare": 0, "beyond": 50}
    pieces = set(opened.source_subword.pieces(range(opened.source_subword.size)))
    assert len(pieces & set(words)) >= 350


@pytest.mark.parametrize("option", [["--subword", "word"], ["--subword", "char"]])
def test_user_words_without_use_are_refused(option: list[str], place: Place, capfd: pytest.CaptureFixture[str]) -> None:
    assert place.run(*user_words(place, ["ab"]), *option, learn=True) == 2
    assert "--user-words has no effect" in capfd.readouterr().err
    assert not place.data.exists()
