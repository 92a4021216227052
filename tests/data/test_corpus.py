import hashlib
import itertools
import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nmtcli.data import corpus as page
from nmtcli.data.corpus import Corpus, DataDirectory
from nmtcli.data.files import GrowingFile
from nmtcli.data.subword import EOS, Subword, learn
from nmtcli.data.text import write_lines
from nmtcli.data.writing import SentenceWriter, new_data_directory, token_dtype, write_meta
from nmtcli.errors import DirectoryError
from tests.oracles import ids_of

PAIRS = [("der alte Mann", "the old man"), ("das Meer", "the sea"), ("ja", "yes , of course")]
ODD_LINES = ["", "  ", "a\u2028b", "c\x85d", "e\x0bf\x0cg\0", "\ufeffh", "i\rj\r", "k"]
sentences = st.lists(st.integers(0, 70_000), max_size=4).map(lambda ids: [*ids, EOS])
pairs_of_ids = st.lists(st.tuples(sentences, sentences), min_size=1, max_size=20)


def write_sentences(directory: Path, pairs: list[Any], vocabulary_size: int, chunk: int = 1000) -> list[int]:
    tokens = []
    for column, side in enumerate(page.SIDES):
        writer = SentenceWriter(lambda name: GrowingFile(directory / name), side, vocabulary_size)
        for start in range(0, len(pairs), chunk):
            ids = [pair[column] for pair in pairs[start : start + chunk]]
            writer.append(np.array([one for sentence in ids for one in sentence]), np.array([len(one) for one in ids]))
        writer.close()
        tokens.append(writer.tokens)
    return tokens


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("learnt") / "words.model"
    texts = [text for pair in PAIRS for text in pair]
    learn(texts, path, kind="none", vocab_size=0, normalization="identity", character_coverage=1.0)
    return path


def fill(directory: Path, learnt: Path) -> None:
    subword = Subword.load(learnt)
    for side in page.SIDES:
        shutil.copyfile(learnt, directory / f"{side}.model")
        write_lines(directory / f"valid.{side}.txt", [f"{line}{side}" for line in ODD_LINES])
        write_lines(directory / f"test.1.{side}.txt", ODD_LINES)
        write_lines(directory / f"test.2.{side}.txt", [side])
    pairs = [(subword.encode(source), subword.encode(target)) for source, target in PAIRS]
    source_tokens, target_tokens = write_sentences(directory, pairs, subword.size)
    write_meta(
        directory,
        {
            "source_lang": "de",
            "target_lang": "en",
            "subword": "none",
            "joint": True,
            "vocabulary_sizes": {"source": subword.size, "target": subword.size},
            "pairs": len(PAIRS),
            "tokens": {"source": source_tokens, "target": target_tokens},
            "valid": {"name": "val", "pairs": len(ODD_LINES)},
            "test": [{"name": "a", "pairs": len(ODD_LINES)}, {"name": "b", "pairs": 1}],
            "user_words": None,
            "cleaning": {},
            "config": {},
            "corpora": [{"name": "train", "pairs": len(PAIRS)}],
            "appended": [],
        },
    )


@pytest.fixture
def data(tmp_path: Path, learnt: Path) -> Path:
    with new_data_directory(str(tmp_path / "data-bin"), overwrite=False) as unfinished:
        fill(unfinished.directory, learnt)
    return tmp_path / "data-bin"


def change_meta(data: Path, **changes: Any) -> None:
    meta = json.loads((data / "meta.json").read_text())
    (data / "meta.json").write_text(json.dumps({**meta, **changes}))


@given(pairs=pairs_of_ids, chunk=st.integers(1, 7))
def test_sentences_come_back_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[list[int], list[int]]], chunk: int
) -> None:
    directory = tmp_path_factory.mktemp("data")
    tokens = write_sentences(directory, pairs, 70_001, chunk)
    corpus = Corpus(directory)
    assert len(corpus) == len(pairs)
    assert ids_of(corpus) == pairs
    source_lengths, target_lengths = corpus.lengths(np.arange(len(corpus)))
    assert source_lengths.tolist() == [len(source) for source, _ in pairs]
    assert target_lengths.tolist() == [len(target) for _, target in pairs]
    assert tokens == [source_lengths.sum(), target_lengths.sum()]
    with pytest.raises(IndexError):
        corpus[len(pairs)]


@pytest.mark.parametrize(("size", "width"), [(10, 2), (65_535, 2), (65_536, 2), (65_537, 4)])
def test_a_token_is_as_wide_as_the_largest_id_needs(tmp_path: Path, size: int, width: int) -> None:
    assert token_dtype(size).itemsize == width
    write_sentences(tmp_path, [([size - 1, EOS], [EOS])], size)
    assert Corpus(tmp_path)[0][0].tolist() == [size - 1, EOS]


def test_the_files_are_plain_npy_files(data: Path) -> None:
    tokens = np.load(data / "train.target.tokens.npy", allow_pickle=False)
    offsets = np.load(data / "train.target.offsets.npy", allow_pickle=False)
    subword = Subword.load(data / "target.model")
    texts = [subword.decode(tokens[start:end]) for start, end in itertools.pairwise(offsets)]
    assert texts == [target for _, target in PAIRS]
    assert (tokens.dtype, offsets.dtype) == (np.dtype("uint16"), np.dtype("int64"))


def test_a_directory_opens_as_it_was_written(data: Path) -> None:
    opened = DataDirectory.open(data)
    assert (opened.source_lang, opened.target_lang, opened.joint, opened.path) == ("de", "en", True, data)
    assert opened.source_subword is opened.target_subword
    texts = [
        (opened.source_subword.decode(source), opened.target_subword.decode(target))
        for source, target in ids_of(opened.train)
    ]
    assert texts == PAIRS


def test_raw_text_comes_back_byte_for_byte(data: Path) -> None:
    opened = DataDirectory.open(data)
    assert opened.valid == [(f"{line}source", f"{line}target") for line in ODD_LINES]
    assert opened.test(1) == list(zip(ODD_LINES, ODD_LINES, strict=True))
    assert opened.test(2) == [("source", "target")]
    for number in (0, 3):
        with pytest.raises(DirectoryError, match=rf"has no test text number {number} \(test texts: 2\)"):
            opened.test(number)


def test_the_corpus_is_read_only_and_pickled_by_its_place(data: Path) -> None:
    corpus = DataDirectory.open(data).train
    with pytest.raises(ValueError, match="read-only"):
        corpus[0][0][0] = 1
    pickled = pickle.dumps(corpus)
    assert len(pickled) < 500
    assert pickle.loads(pickled)[1][0].tolist() == corpus[1][0].tolist()


def test_meta_json_starts_with_the_format_and_holds_the_sha256_of_every_other_file(data: Path) -> None:
    meta = json.loads((data / "meta.json").read_text())
    assert list(meta)[:2] == ["format", "version"]
    assert (meta["format"], meta["version"]) == ("nmtcli-data", 1)
    assert meta["special_ids"] == {"pad": 0, "unk": 1, "bos": 2, "eos": 3}
    files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in data.iterdir()}
    del files["meta.json"]
    assert meta["sha256"] == files


def test_a_missing_directory_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(DirectoryError) as refused:
        DataDirectory.open(tmp_path / "data-bin")
    assert str(refused.value) == f"{tmp_path}/data-bin does not exist. Run nmt preprocess first."


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "nmtcli-model"}, "is not a data directory"),
        ({"version": 2}, "has version 2, but this nmt reads 1"),
        ({"pairs": 4, "corpora": []}, "has 3 pairs, but its meta.json has 4"),
        ({"pairs": 4}, "its corpora do not add up to 4 pairs"),
        ({"corpora": {"news": 3}}, "corpora is {'news': 3}"),
        ({"corpora": [{"name": "news", "pairs": -3}]}, "a text has no number of pairs"),
        ({"sha256": {}}, "meta.json is damaged"),
        ({"sha256": {"source.model": "0"}}, "meta.json is damaged"),
        ({"valid": {"name": "val"}}, "a text has no number of pairs"),
        ({"target_lang": 7}, "target_lang is 7"),
        ({"pairs": None, "joint": None, "sha256": None}, "meta.json is damaged"),
    ],
)
def test_a_wrong_meta_json_is_refused(data: Path, changes: dict[str, Any], message: str) -> None:
    change_meta(data, **changes)
    with pytest.raises(DirectoryError, match=message):
        DataDirectory.open(data)


def test_another_subword_model_is_refused(data: Path) -> None:
    hashes = json.loads((data / "meta.json").read_text())["sha256"]
    change_meta(data, sha256={**hashes, "source.model": "0"})
    with pytest.raises(DirectoryError, match="is not the one that the corpus was encoded with"):
        DataDirectory.open(data)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "\udcff"])
def test_a_broken_meta_json_is_refused(data: Path, content: str) -> None:
    (data / "meta.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(DirectoryError, match=r"is not JSON|does not hold a JSON object"):
        DataDirectory.open(data)


@pytest.mark.parametrize("path", ["data-bin/valid.source.txt", "."])
def test_what_is_no_data_directory_is_refused(data: Path, path: str) -> None:
    with pytest.raises(DirectoryError, match=r"is not a data directory: it has no meta\.json"):
        DataDirectory.open(data.parent / path)


@pytest.mark.parametrize("name", [f"train.{side}.{what}.npy" for side in page.SIDES for what in ("tokens", "offsets")])
@pytest.mark.parametrize("damage", ["missing", "empty", "a byte short", "half", "no array", "pickled", "of text"])
def test_a_damaged_array_is_refused_by_name(data: Path, name: str, damage: str) -> None:
    path = data / name
    whole = path.read_bytes()
    path.unlink()
    if damage == "pickled":
        np.save(path, np.array([{"code": 1}], dtype=object), allow_pickle=True)
    elif damage == "of text":
        np.save(path, np.array(["a", "b"]))
    elif damage != "missing":
        cut = {"empty": b"", "a byte short": whole[:-1], "half": whole[: len(whole) // 2], "no array": b"text" * 99}
        path.write_bytes(cut[damage])
    with pytest.raises(DirectoryError, match="Run nmt preprocess") as refused:
        DataDirectory.open(data)
    assert name in str(refused.value)


def test_arrays_that_disagree_are_refused(data: Path) -> None:
    np.save(data / "train.source.offsets.npy", np.array([0, 4, 7, 8]))
    with pytest.raises(DirectoryError, match="does not match its offsets"):
        DataDirectory.open(data)
    np.save(data / "train.source.offsets.npy", np.array([0, 9]))
    with pytest.raises(DirectoryError, match="has 1 source and 3 target sentences"):
        DataDirectory.open(data)


def test_damaged_text_is_refused_when_it_is_read(data: Path) -> None:
    opened = DataDirectory.open(data)
    (data / "valid.source.txt").write_text("one line\n")
    (data / "test.1.source.txt").write_bytes(b"\xff\n")
    (data / "test.2.source.txt").unlink()
    with pytest.raises(DirectoryError, match=r"valid.source.txt is damaged: its sha256"):
        _ = opened.valid
    with pytest.raises(DirectoryError, match=r"test.1.source.txt is damaged: its sha256"):
        opened.test(1)
    with pytest.raises(DirectoryError, match=r"test.2.source.txt does not exist"):
        opened.test(2)


@pytest.mark.parametrize("quick", [True, False])
def test_a_bit_that_flipped_is_found_where_that_takes_no_time_or_where_it_is_asked_for(
    quick: bool, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    DataDirectory.open(data).verify(quick=quick)
    path = data / "train.target.tokens.npy"
    content = bytearray(path.read_bytes())
    content[-4] ^= 1
    path.write_bytes(content)
    with pytest.raises(DirectoryError, match=r"train.target.tokens.npy is damaged"):
        DataDirectory.open(data).verify(quick=quick)
    monkeypatch.setattr(page, "QUICK_BYTES", 10)
    if quick:
        DataDirectory.open(data).verify(quick=True)
    else:
        with pytest.raises(DirectoryError, match=r"train.target.tokens.npy is damaged"):
            DataDirectory.open(data).verify()


@pytest.mark.parametrize("offsets", [[0, 5, 4, 8], [0, -1, 4, 8], [0, 99, 4, 8], [0, 0, 4, 8], [0, 1, 4, 8]], ids=str)
def test_offsets_that_are_none_are_refused_when_they_are_read(data: Path, offsets: list[int]) -> None:
    tokens = len(np.load(data / "train.source.tokens.npy"))
    np.save(data / "train.source.offsets.npy", np.array([*offsets[:-1], tokens]))
    corpus = DataDirectory.open(data).train
    with pytest.raises(DirectoryError, match=r"train.source.offsets.npy: sentence \d .* is not a sentence"):
        ids_of(corpus)


@pytest.mark.parametrize("name", ["meta.json", "source.model", "train.source.tokens.npy", "valid.target.txt"])
@pytest.mark.parametrize("kind", ["a pipe", "a device", "a loop", "a folder", "a link to nothing"])
def test_what_is_no_file_is_refused_and_not_read(kind: str, name: str, data: Path) -> None:
    path = data / name
    path.unlink()
    match kind:
        case "a pipe":
            os.mkfifo(path)
        case "a device":
            path.symlink_to("/dev/zero")
        case "a loop":
            path.symlink_to(path)
        case "a folder":
            path.mkdir()
        case _:
            path.symlink_to("nothing")
    with pytest.raises(DirectoryError) as refused:
        _ = DataDirectory.open(data).valid
    assert "\n" not in str(refused.value)


def test_a_link_to_a_file_is_one(data: Path, tmp_path: Path) -> None:
    for path in list(data.iterdir()):
        path.rename(tmp_path / path.name)
        path.symlink_to(tmp_path / path.name)
    opened = DataDirectory.open(data)
    opened.verify()
    assert len(opened.valid) == len(ODD_LINES)


def test_a_json_that_fills_the_memory_is_not_read(data: Path) -> None:
    with (data / "meta.json").open("ab") as file:
        file.truncate(1 << 40)  # a hole: it takes no room on the disk
    with pytest.raises(DirectoryError, match=r"meta.json has 1,099,511,627,776 bytes, but may have at most"):
        DataDirectory.open(data)
