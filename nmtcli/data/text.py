"""Read and write text files. Line ends, compression and the pairing of parallel files are handled only here.

Only "\\n" ends a line: U+2028, U+0085, vertical tab, form feed and NUL are ordinary characters. One CR before the "\\n"
is dropped, and so is a byte-order mark at the start of a file. The last line may lack its "\\n". Text is UTF-8.
"""

import bz2
import gzip
import io
import itertools
import lzma
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from nmtcli.data.files import open_to_read, open_to_write
from nmtcli.errors import DataError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
STDIN = "-"
_BOM = b"\xef\xbb\xbf"
_CHUNK = 1 << 17  # size of the blocks in which .zst files are read [bytes]
_PAIRS = 1000  # pairs that `read_pairs` reads at a time


def is_blank(line: str) -> bool:
    """Return True if a line is empty or consists of white space as defined by `str.isspace`: U+2028, U+0085, vertical
    tab and form feed are white space; NUL and zero-width characters are not."""
    return not line or line.isspace()


def read_lines(path: str) -> Iterator[str]:
    """Yield the lines of a file, without line ends.

    Args:
        path: a plain or compressed file (`.gz .bz2 .xz .zst`), or `-` for stdin.

    Raises:
        DataError: the file is missing, truncated, damaged or not UTF-8 (the message names the line and the byte).
    """
    with _opened(path) as stream, _reporting_damage(path):
        for number, raw in enumerate(_byte_lines(stream), start=1):
            yield _decoded(raw, path, number)


@dataclass(frozen=True, slots=True)
class PairBlock:
    """Consecutive pairs of a parallel text, not yet decoded, so that another process can decode them.

    Attributes:
        paths: the source and the target file, or one file whose lines are source TAB target.
        lines: for each file, the bytes of its lines, line ends included.
        first: line number of the first pair [from 1].
        count: number of pairs.
    """

    paths: tuple[str, ...]
    lines: tuple[bytes, ...]
    first: int
    count: int

    def pairs(self) -> list[tuple[str, str]]:
        """Decode the pairs.

        Raises:
            DataError: a line is not UTF-8, or a line of a `.tsv` file does not have exactly one TAB.
        """
        sides = [_decoded_lines(raw, path, self.first) for raw, path in zip(self.lines, self.paths, strict=True)]
        if len(sides) == 2:
            return list(zip(*sides, strict=True))
        return [_fields(line, self.paths[0], number) for number, line in enumerate(sides[0], start=self.first)]


def paths_of(prefix: str, source_lang: str, target_lang: str) -> tuple[str, ...]:
    """Return the paths of a parallel text: a file for each side, or one `.tsv` file for both.

    Raises:
        DataError: the file for one side is missing, or exists in several forms (plain and compressed).
    """
    if prefix.endswith((".tsv", *(f".tsv{ending}" for ending in COMPRESSED))):
        return (prefix,)
    return _found(prefix, source_lang), _found(prefix, target_lang)


def read_blocks(prefix: str, source_lang: str, target_lang: str, size: int) -> Iterator[PairBlock]:
    """Yield the pairs of a parallel text in blocks of at most `size` pairs.

    Raises:
        DataError: as for `read_pairs`, except that errors within a line are raised later, by `PairBlock.pairs`.
    """
    paths = paths_of(prefix, source_lang, target_lang)
    with ExitStack() as stack:
        files = [_raw_lines(stack.enter_context(_opened(path))) for path in paths]
        first = 1
        while True:
            lines = []
            for path, file in zip(paths, files, strict=True):
                with _reporting_damage(path):
                    lines.append(list(itertools.islice(file, size)))
            count = len(lines[0])
            if len(lines[-1]) != count:
                read = [first - 1 + len(some) + _count(rest) for some, rest in zip(lines, files, strict=True)]
                raise DataError(
                    f"{paths[0]} has {read[0]:,} lines, but {paths[1]} has {read[1]:,}",
                    "Parallel files must have the same number of lines",
                )
            if not count:
                return
            yield PairBlock(paths, tuple(b"".join(some) for some in lines), first, count)
            first += count


def read_pairs(prefix: str, source_lang: str, target_lang: str) -> Iterator[tuple[str, str]]:
    """Yield the (source line, target line) pairs of a parallel text.

    Args:
        prefix: prefix of two files `PREFIX.<lang>`, plain or compressed; or a `.tsv` file, plain or compressed, whose
            lines are source TAB target.

    Raises:
        DataError: a file is missing, damaged or not UTF-8, or exists in several forms (plain and compressed); the two
            sides have different numbers of lines; or a line of a `.tsv` file does not have exactly one TAB.
    """
    for block in read_blocks(prefix, source_lang, target_lang, _PAIRS):
        yield from block.pairs()


def decode_stream(stream: BinaryIO, on_replacement: Callable[[int], None]) -> Iterator[str]:
    """Yield the lines of a stream one at a time, as they arrive; bytes that are not UTF-8 become U+FFFD.

    Args:
        on_replacement: called before a line with replacements is yielded, with the number of the line [from 1].
    """
    for number, raw in enumerate(_byte_lines(stream), start=1):
        try:
            line = raw.decode("utf-8")
        except UnicodeDecodeError:
            on_replacement(number)
            line = raw.decode("utf-8", errors="replace")
        yield line


def write_lines(path: Path, lines: Iterable[str]) -> int:
    """Write lines as UTF-8, each followed by "\\n"; `read_written_lines` reads the same lines back.

    Returns:
        the number of lines written.
    """
    count = 0
    with open_to_write(path) as file:
        for line in lines:
            file.write(line.encode("utf-8") + b"\n")
            count += 1
    return count


def read_written_lines(path: Path) -> Iterator[str]:
    """Yield the lines that `write_lines` wrote, unchanged: a CR or a byte-order mark is kept."""
    with open_to_read(path) as file:
        for raw in file:
            yield raw.removesuffix(b"\n").decode("utf-8")


def _byte_lines(stream: BinaryIO) -> Iterator[bytes]:
    """Yield the lines of a binary stream, without line ends and without a byte-order mark at the start. Each line is
    yielded before the next one is read, so that a person can type the lines at a terminal."""
    for raw in _raw_lines(stream):
        if raw.endswith(b"\n"):
            raw = raw[:-2] if raw.endswith(b"\r\n") else raw[:-1]
        yield raw


def _raw_lines(stream: BinaryIO) -> Iterator[bytes]:
    """Return the lines of a binary stream, with line ends but without a byte-order mark at the start."""
    first = stream.readline().removeprefix(_BOM)
    return itertools.chain([first], stream) if first else iter(())


def _decoded_lines(raw: bytes, path: str, first: int) -> list[str]:
    """Decode bytes and split them into lines, without line ends."""
    try:
        lines = raw.decode("utf-8").split("\n")
    except UnicodeDecodeError:
        for number, line in enumerate(raw.split(b"\n"), start=first):
            _decoded(line, path, number)  # raises at the faulty line
        raise
    last = lines.pop()  # empty, unless the file ends without a line end
    if b"\r\n" in raw:
        lines = [line.removesuffix("\r") for line in lines]
    return [*lines, last] if last else lines


@contextmanager
def _reporting_damage(path: str) -> Iterator[None]:
    """Turn decompression errors into a DataError."""
    try:
        yield
    except (EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # gzip and bz2 raise OSErrors without a number
            raise
        raise DataError(f"{path} is cut short or damaged ({error})", "Copy it again") from error


def _decoded(raw: bytes, path: str, number: int) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        place = f"byte {error.start + 1:,} (0x{raw[error.start]:02X})"
        raise DataError(f"{path}, line {number:,}: {place} is not UTF-8", "Convert the file to UTF-8") from None


@contextmanager
def _opened(path: str) -> Iterator[BinaryIO]:
    """Yield a stream of the decompressed bytes of a file, or stdin if the path is `-`."""
    if path == STDIN:
        yield sys.stdin.buffer
        return
    if not Path(path).exists():
        raise DataError(f"{path} does not exist", "Check the name")
    if Path(path).is_dir():
        raise DataError(f"{path} is a directory", "Name a file of text")
    with open(path, "rb") as file:
        opener = _OPENERS.get(Path(path).suffix)
        yield opener(file) if opener else file


class _ZstandardFile(io.RawIOBase):
    """The decompressed bytes of a .zst file. (The zstandard package's reader does not detect a truncated file.)"""

    def __init__(self, file: BinaryIO) -> None:
        self._blocks = _zstandard_blocks(file)
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        target = memoryview(buffer).cast("B")
        while not self._rest:
            block = next(self._blocks, None)
            if block is None:
                return 0
            self._rest = memoryview(block)
        count = min(len(target), len(self._rest))
        target[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count


_OPENERS: dict[str, Callable[[BinaryIO], Any]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": lambda file: io.BufferedReader(_ZstandardFile(file), _CHUNK),
}


def _zstandard_blocks(file: BinaryIO) -> Iterator[bytes]:
    import zstandard  # imported only when needed: it is slow to import

    frame = None
    try:
        while compressed := file.read(_CHUNK):
            while compressed:
                frame = frame or zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj()
                yield frame.decompress(compressed)
                compressed = frame.unused_data if frame.eof else b""
                frame = None if frame.eof else frame
    except zstandard.ZstdError as error:
        raise EOFError(str(error)) from error
    if frame is not None:
        raise EOFError("it ends inside a frame")


def _found(prefix: str, lang: str) -> str:
    """Return the path of the file `PREFIX.<lang>`, plain or compressed.

    Raises:
        DataError: there is no such file, or there are several.
    """
    plain = f"{prefix}.{lang}"
    found = [path for path in (plain, *(plain + ending for ending in COMPRESSED)) if Path(path).exists()]
    if not found:
        endings = " ".join(COMPRESSED)
        raise DataError(f"{plain} does not exist (nor with {endings})", "Check the prefix and the languages")
    if len(found) > 1:
        raise DataError(f"there are {len(found)} files for {plain}: {', '.join(found)}", "Keep one of them")
    if not Path(found[0]).is_file():
        raise DataError(f"{found[0]} is not a regular file", "Name a file of text")
    return found[0]


def _fields(line: str, path: str, number: int) -> tuple[str, str]:
    fields = line.split("\t")
    if len(fields) != 2:
        raise DataError(
            f"{path}, line {number:,} has {len(fields) - 1:,} TABs",
            "Each line must be source TAB target, with exactly one TAB",
        )
    return fields[0], fields[1]


def _count(lines: Iterator[bytes]) -> int:
    return sum(1 for _ in lines)
