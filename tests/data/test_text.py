import bz2
import gzip
import io
import lzma
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from hypothesis import example, given
from hypothesis import strategies as st

from nmtcli.data.text import decode_stream, is_blank, read_lines, read_pairs, read_written_lines, write_lines
from nmtcli.errors import DataError

COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.ZstdCompressor(write_checksum=True).compress,
}
ODD_CHARACTERS = "\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e\0\r\t\ufeff\u200b\U0001f600"
texts = st.text(
    st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from(ODD_CHARACTERS + "\n")), max_size=40
)
lines_of_text = st.lists(texts.map(lambda text: text.replace("\n", " ")), max_size=8)


def expected_lines(content: bytes) -> list[str]:
    """The rule said in another way: split at "\\n" and nowhere else."""
    lines = content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    ended, last = lines[:-1], lines[-1]
    return [line.removesuffix(b"\r").decode() for line in ended] + ([last.decode()] if last else [])


def file_of(directory: Path, content: bytes, name: str = "text.en") -> str:
    (directory / name).write_bytes(content)
    return str(directory / name)


def parallel(directory: Path, source: bytes, target: bytes) -> str:
    file_of(directory, source, "c.de")
    file_of(directory, target, "c.en")
    return str(directory / "c")


@given(texts)
@example("a\r\nb\n")
@example("\ufeff")
@example("\ufeffa")
@example("a\u2028b\x85c\x0bd\x0ce\0f\n")
@example("a\r\r\nb\rc\r")
def test_only_a_line_feed_ends_a_line(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = file_of(tmp_path_factory.mktemp("text"), text.encode())
    assert list(read_lines(path)) == expected_lines(text.encode())


@given(texts)
@example("")
@example("\ufeffone\r\n\r\ntwo")
def test_a_stream_has_the_same_lines_as_a_file(text: str) -> None:
    replaced: list[int] = []
    assert list(decode_stream(io.BytesIO(text.encode()), replaced.append)) == expected_lines(text.encode())
    assert not replaced


@given(lines_of_text)
@example(["\ufeffmark kept", "carriage return kept\r", ""])
def test_written_lines_come_back_exactly(tmp_path_factory: pytest.TempPathFactory, lines: list[str]) -> None:
    path = tmp_path_factory.mktemp("text") / "lines.txt"
    assert write_lines(path, lines) == len(lines)
    assert list(read_written_lines(path)) == lines
    assert path.read_bytes().count(b"\n") == len(lines)


@pytest.mark.parametrize("ending", COMPRESSORS)
def test_every_ending_is_read(tmp_path: Path, ending: str) -> None:
    lines = [f"Zeile {number} äöü 中文" for number in range(30_000)]
    content = "".join(f"{line}\n" for line in lines).encode()
    path = file_of(tmp_path, COMPRESSORS[ending](content), f"text.en{ending}")
    assert list(read_lines(path)) == lines


@pytest.mark.parametrize("ending", [ending for ending in COMPRESSORS if ending])
def test_two_compressed_parts_in_one_file_are_read(tmp_path: Path, ending: str) -> None:
    compress = COMPRESSORS[ending]
    path = file_of(tmp_path, compress(b"one\ntw") + compress(b"o\nthree"), f"text.en{ending}")
    assert list(read_lines(path)) == ["one", "two", "three"]


@pytest.mark.parametrize("ending", [ending for ending in COMPRESSORS if ending])
@pytest.mark.parametrize("damage", ["cut", "not compressed", "a changed byte"])
def test_a_damaged_compressed_file_is_refused(tmp_path: Path, ending: str, damage: str) -> None:
    whole = COMPRESSORS[ending](os.urandom(200_000).hex().encode())
    middle = len(whole) // 2
    damaged = {
        "cut": whole[:-7],
        "not compressed": b"just text\n",
        "a changed byte": whole[:middle] + bytes([whole[middle] ^ 0xFF]) + whole[middle + 1 :],
    }
    path = file_of(tmp_path, damaged[damage], f"text.en{ending}")
    with pytest.raises(DataError, match="cut short or damaged") as refused:
        list(read_lines(path))
    assert path in str(refused.value)


def test_stdin_is_a_dash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"one\ntwo")))
    assert list(read_lines("-")) == ["one", "two"]


def test_bad_utf_8_is_refused_with_its_place(tmp_path: Path) -> None:
    path = file_of(tmp_path, "good\ncafé\n".encode() + b"caf\xe9\n")
    with pytest.raises(DataError) as refused:
        list(read_lines(path))
    assert str(refused.value) == f"{path}, line 3: byte 4 (0xE9) is not UTF-8. Convert the file to UTF-8."


def test_bad_utf_8_in_a_stream_is_replaced_and_reported() -> None:
    replaced: list[int] = []
    lines = list(decode_stream(io.BytesIO(b"good\ncaf\xe9\n\xff\xfe\nlast"), replaced.append))
    assert lines == ["good", "caf�", "��", "last"]
    assert replaced == [2, 3]


def test_a_stream_gives_a_line_before_the_next_one_is_typed() -> None:
    read_end, write_end = os.pipe()
    with os.fdopen(read_end, "rb") as stream, os.fdopen(write_end, "wb", buffering=0) as keyboard:
        lines = decode_stream(stream, lambda number: None)
        for line in ("first", "second"):
            keyboard.write(f"{line}\n".encode())
            assert next(lines) == line


@pytest.mark.parametrize("line", ["", " ", "\t \u3000", "\u2028", "\x85", "\x0b\x0c", "\xa0"])
def test_white_space_is_blank(line: str) -> None:
    assert is_blank(line)


@pytest.mark.parametrize("line", ["a", " . ", "\0", "\u200b", "\ufeff"])
def test_other_characters_are_not_blank(line: str) -> None:
    assert not is_blank(line)


@pytest.mark.parametrize("source_ending", COMPRESSORS)
def test_the_two_sides_may_be_compressed_differently(tmp_path: Path, source_ending: str) -> None:
    file_of(tmp_path, COMPRESSORS[source_ending]("ä\nö\n".encode()), f"c.de{source_ending}")
    file_of(tmp_path, COMPRESSORS[".zst"](b"a\r\no"), "c.en.zst")
    assert list(read_pairs(str(tmp_path / "c"), "de", "en")) == [("ä", "a"), ("ö", "o")]
    assert list(read_pairs(str(tmp_path / "c"), "en", "de")) == [("a", "ä"), ("o", "ö")]


@pytest.mark.parametrize("ending", COMPRESSORS)
def test_a_tsv_file_holds_source_and_target(tmp_path: Path, ending: str) -> None:
    path = file_of(tmp_path, COMPRESSORS[ending](b"a b\tc\r\n\td\n\t\n"), f"c.tsv{ending}")
    assert list(read_pairs(path, "de", "en")) == [("a b", "c"), ("", "d"), ("", "")]


@pytest.mark.parametrize(("line", "tabs"), [("no tab", "0 TABs"), ("a\tb\tc", "2 TABs"), ("", "0 TABs")])
def test_a_tsv_line_without_exactly_one_tab_is_refused(tmp_path: Path, line: str, tabs: str) -> None:
    path = file_of(tmp_path, f"a\tb\n{line}\n".encode(), "c.tsv")
    with pytest.raises(DataError, match=f"line 2 has {tabs}") as refused:
        list(read_pairs(path, "de", "en"))
    assert path in str(refused.value)


@pytest.mark.parametrize(("source_lines", "target_lines"), [(1000, 999), (999, 1000), (0, 2), (1500, 3)])
def test_unequal_files_are_refused_with_both_counts(tmp_path: Path, source_lines: int, target_lines: int) -> None:
    prefix = parallel(tmp_path, b"x\n" * source_lines, b"y\n" * target_lines)
    with pytest.raises(DataError) as refused:
        list(read_pairs(prefix, "de", "en"))
    assert str(refused.value) == (
        f"{prefix}.de has {source_lines:,} lines, but {prefix}.en has {target_lines:,}. "
        "Parallel files must have the same number of lines."
    )


def test_empty_lines_on_one_side_never_shift_pairs(tmp_path: Path) -> None:
    prefix = parallel(tmp_path, "a\n\nc\x85\n\u2028\n".encode(), b"1\n2\n\n4")
    assert list(read_pairs(prefix, "de", "en")) == [("a", "1"), ("", "2"), ("c\x85", ""), ("\u2028", "4")]


def test_a_missing_file_is_named_as_it_was_looked_for(tmp_path: Path) -> None:
    file_of(tmp_path, b"a\n", "c.de")
    with pytest.raises(DataError) as refused:
        list(read_pairs(str(tmp_path / "c"), "de", "en"))
    assert f"{tmp_path}/c.en does not exist (nor with .gz .bz2 .xz .zst)" in str(refused.value)


def test_a_file_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    prefix = parallel(tmp_path, b"a\n", b"b\n")
    file_of(tmp_path, gzip.compress(b"other\n"), "c.de.gz")
    with pytest.raises(DataError, match=r"there are 2 files for .*c\.de: .*c\.de, .*c\.de\.gz"):
        list(read_pairs(prefix, "de", "en"))


def test_what_is_not_a_file_is_refused(tmp_path: Path) -> None:
    parallel(tmp_path, b"a\n", b"b\n")
    (tmp_path / "d.de").mkdir()
    with pytest.raises(DataError, match="not a regular file"):
        list(read_pairs(str(tmp_path / "d"), "de", "en"))
    with pytest.raises(DataError, match="is a directory"):
        list(read_lines(str(tmp_path)))
    with pytest.raises(DataError, match="does not exist"):
        list(read_lines(str(tmp_path / "nothing")))
