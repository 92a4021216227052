"""Subword models: text <-> ids. Ids are defined here: pad 0, unk 1, bos 2, eos 3, then SentencePiece's pieces.

Three kinds of model split text into pieces: `unigram` (Kudo 2018), `bpe` (Sennrich et al. 2016) and `char`. Characters
outside the vocabulary fall back to bytes, so that no text is unknown. A run of spaces becomes one space, and so does
"▁" (U+2581), SentencePiece's own space marker. Decoding restores all other text exactly, unless a normalisation rule
was chosen. Text that looks like a special piece (`<s>`, `<0x41>`) is treated as ordinary text.

Two kinds of model use whole words; a word outside the vocabulary becomes `<unk>`. Both kinds are
SentencePiece models of type WORD:

- `none`: the text is already tokenised. Units are separated by spaces and kept verbatim; decoding joins them with
  spaces.
- `word`: raw text. A unit is a run of letters, digits and similar characters, or one punctuation mark or symbol. A mark
  that was attached to its neighbour carries a joiner "⁀" (U+2040): `"Yes," he replied.` becomes
  `"⁀ Yes ⁀, ⁀" he replied ⁀.` Decoding joins units at the joiners, which restores the text except for runs of white
  space. A "⁀" in the text itself becomes "‿". Such a model is recognised by its control piece `<joiner:⁀>`.

The words `<pad>`, `<unk>`, `<s>` and `</s>` in tokenised text are unknown words.

Model files have SentencePiece's own format; any other SentencePiece model with these four special ids works too.
"""

import functools
import hashlib
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import sentencepiece

from nmtcli.data.files import SUBWORD_BYTES, open_to_write, read_small
from nmtcli.data.segmentation import Segmenter
from nmtcli.errors import ConfigError, DataError, DirectoryError

PAD, UNK, BOS, EOS = 0, 1, 2, 3
SPECIALS = {"pad": PAD, "unk": UNK, "bos": BOS, "eos": EOS}
JOINER = "⁀"
_JOINS = f"<joiner:{JOINER}>"  # no unit looks like this: "<" is always a unit of its own
_SPACE = "▁"
_KINDS = {1: "unigram", 2: "bpe", 3: "word", 4: "char"}  # TrainerSpec.ModelType of sentencepiece_model.proto
_MODEL_TYPES = {"unigram": "unigram", "bpe": "bpe", "char": "char", "word": "word", "none": "word"}
_LINE_ENDS = ("\n", "\r")
_LINE_BYTES = 1 << 16  # the trainer skips longer lines [bytes]
_TRAINER_SKIPS = str.maketrans(dict.fromkeys("\0\n\r▅" + _SPACE, " "))  # reserved: the trainer skips lines with them


class Subword:
    """A SentencePiece model, which converts text to ids and ids to text.

    Args:
        model: the bytes of the model file.
        name: name of the model in error messages.

    Attributes:
        size: number of pieces; all ids are smaller.
        kind: unigram, bpe, char or word.
        joins: True if the units of a word model carry joiners (`--subword word`, not `none`).
        sha256: SHA-256 of the model file, in hexadecimal.

    Raises:
        DirectoryError: the bytes are not a SentencePiece model, or its special ids differ from SPECIALS.
    """

    def __init__(self, model: bytes, name: str) -> None:
        self._model, self._name = model, name
        self.sha256 = hashlib.sha256(model).hexdigest()
        try:
            if not model:
                raise ValueError("empty")
            self._processor: Any = sentencepiece.SentencePieceProcessor(model_proto=model)
            self.kind = _kind_of(model)
        except (RuntimeError, ValueError, IndexError, KeyError) as error:
            raise DirectoryError(f"{name} is not a complete SentencePiece model", "Copy it again") from error
        processor = self._processor
        self.size = int(processor.get_piece_size())
        specials = (processor.pad_id(), processor.unk_id(), processor.bos_id(), processor.eos_id())
        if specials != (PAD, UNK, BOS, EOS):
            raise DirectoryError(
                f"{name} has pad, unk, bos, eos at {', '.join(str(one) for one in specials)}, not at 0, 1, 2, 3",
                "Learn it with pad_id=0 unk_id=1 bos_id=2 eos_id=3",
            )
        self.joins = self.kind == "word" and processor.piece_to_id(_JOINS) != UNK

    @classmethod
    def load(cls, path: str | Path, known: "Subword | None" = None) -> "Subword":
        """Load a model; return `known` if the bytes are the same.

        Raises:
            DirectoryError: the file is missing or damaged, or the model's special ids differ from SPECIALS.
        """
        mend = "Copy it again, or run nmt preprocess again"
        model = read_small(Path(path), SUBWORD_BYTES, mend)
        return known if known is not None and known._model == model else cls(model, str(path))

    def __reduce__(self) -> tuple[type["Subword"], tuple[bytes, str]]:
        return Subword, (self._model, self._name)

    @functools.cached_property
    def _segmenter(self) -> Segmenter:
        return Segmenter(self._processor, self.kind, _user_defined(self._model))

    @functools.cached_property
    def forbidden_ids(self) -> tuple[int, ...]:
        """Ids that search must never emit, ascending: special (except EOS), control and unused pieces, and pieces that
        contain "\\n" or "\\r", including the byte pieces for these characters."""
        processor = self._processor
        forbidden = {PAD, UNK, BOS, processor.piece_to_id("<0x0A>"), processor.piece_to_id("<0x0D>")}
        for piece_id in range(self.size):
            piece = processor.id_to_piece(piece_id)
            is_never_text = processor.is_control(piece_id) or processor.is_unused(piece_id)
            if is_never_text or any(end in piece for end in _LINE_ENDS):
                forbidden.add(piece_id)
        return tuple(sorted(forbidden - {EOS}))

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, ending in EOS."""
        return self.encode_many([text])[0]

    def encode_many(self, texts: list[str]) -> list[list[int]]:
        """Return the ids of each text, ending in EOS."""
        if self.kind == "word":
            return [self._encode_words(text) for text in texts]
        encoded: list[list[int]] = self._processor.encode(texts, num_threads=1)
        for ids in encoded:
            ids.append(EOS)
        return encoded

    def sample(self, text: str, alpha: float, seed: int) -> list[int]:
        """Sample a segmentation of a text; return its ids, ending in EOS.

        Args:
            alpha: for unigram, the exponent of the probabilities (a smaller exponent gives a flatter distribution); for
                bpe, the probability of dropping a merge.
            seed: random seed; the same text, alpha and seed give the same ids in any process.

        Raises:
            ConfigError: the model is neither unigram nor bpe, so there is only one segmentation.

        Source:
            Kudo 2018 (unigram), Provilkov et al. 2020 (bpe).
        """
        if self.kind not in ("unigram", "bpe"):
            raise ConfigError(
                f"subword sampling needs a unigram or bpe model, but {self._name} is {self.kind}",
                "Use --subword-alpha 0",
            )
        return [*self._segmenter.draw(text, alpha, seed), EOS]

    def decode(self, ids: Sequence[int], unknown: str = "") -> str:
        """Convert ids to text, leaving out special pieces; the text never contains "\\n" or "\\r".

        Args:
            unknown: text that replaces each unknown word (word models only); if empty, unknown words are left out.
        """
        special = (PAD, BOS, EOS) if unknown and self.kind == "word" else (PAD, UNK, BOS, EOS)
        kept = [int(one) for one in ids if one not in special]
        if self.kind == "word":
            units = [unknown if one == UNK else self._processor.id_to_piece(one).removeprefix(_SPACE) for one in kept]
            text = join_units(units) if self.joins else " ".join(units)
        else:
            text = self._processor.decode(kept)
        for end in _LINE_ENDS:  # search disallows these pieces, but other callers need a single line too
            text = text.replace(end, " ")
        return text

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Convert ids to pieces, spelt as in the model and including special pieces."""
        return [self._processor.id_to_piece(int(one)) for one in ids]

    def _encode_words(self, text: str) -> list[int]:
        # The processor's own `encode` would merge consecutive unknown words into one <unk>.
        text = self._processor.normalize(text).replace(_SPACE, " ")
        units = split_units(text) if self.joins else _split_words(text)
        return [*(self._processor.piece_to_id(_SPACE + unit) for unit in units), EOS]


def learn(
    texts: Iterable[str],
    path: Path,
    *,
    kind: str,
    vocab_size: int,
    normalization: str,
    character_coverage: float,
    user_words: Sequence[str] = (),
) -> None:
    """Learn a model from text and write it to a file. The same texts in the same order give the same bytes.

    Args:
        kind: unigram, bpe, char, word or none.
        vocab_size: maximum number of pieces, including special pieces and the 256 byte pieces of unigram, bpe and char;
            the vocabulary is smaller if the text does not provide enough pieces. 0: no limit (only word and none).
        normalization: name of a SentencePiece normalisation rule.
        character_coverage: share of the characters in the text to be covered by pieces; the remaining characters are
            encoded as bytes (unigram, bpe, char).
        user_words: pieces that are always in the vocabulary and never split (unigram, bpe).

    Raises:
        ConfigError: vocab_size is too small for the characters in the text, or SentencePiece fails for another reason.
        DataError: there is no text to learn from.
    """
    is_word = kind in ("word", "none")
    control = [_JOINS] if kind == "word" else []
    least = len(SPECIALS) + len(control) + (0 if is_word else 256) + 1
    if 0 < vocab_size < least:
        raise ConfigError(f"--vocab-size must be at least {least} with --subword {kind}, but is {vocab_size}")
    lines: Iterator[str] = (text.translate(_TRAINER_SKIPS) for text in texts)
    lines = (line for line in lines if line and not line.isspace())
    if kind == "word":
        lines = _lines_of_units(lines, normalization)
    try:
        with open_to_write(path) as file:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=lines,
                model_writer=file,
                model_type=_MODEL_TYPES[kind],
                vocab_size=vocab_size or least,
                use_all_vocab=vocab_size == 0,
                hard_vocab_limit=False,
                byte_fallback=not is_word,
                normalization_rule_name=normalization,
                character_coverage=character_coverage,
                control_symbols=control,
                user_defined_symbols=list(user_words),
                pad_id=PAD,
                unk_id=UNK,
                bos_id=BOS,
                eos_id=EOS,
                max_sentence_length=_LINE_BYTES,
                num_threads=4,  # fixed: the sums in unigram's EM depend on the number of threads
                minloglevel=2,
            )
    except RuntimeError as error:
        raise _learning_error(str(error), vocab_size) from error


def _learning_error(message: str, vocab_size: int) -> Exception:
    """Return the error to report for a RuntimeError raised by the SentencePiece trainer."""
    if too_small := re.search(r"smaller than required_chars\. \d+ vs (\d+)", message):
        return ConfigError(
            f"--vocab-size {vocab_size} is too small: characters, bytes and special pieces alone are {too_small[1]}",
            f"Use --vocab-size {too_small[1]} or more, or a lower --character-coverage",
        )
    if "!sentences_.empty()" in message or "all_chars_count" in message:
        return DataError("there is no text to learn a vocabulary from", "Check the training text")
    return ConfigError(f"SentencePiece cannot learn a vocabulary: {message}")


def _lines_of_units(lines: Iterable[str], normalization: str) -> Iterator[str]:
    """Normalise each line, as encoding does, and yield the line with spaces between its units."""
    normalizer: Any = sentencepiece.SentencePieceNormalizer(rule_name=normalization)
    for line in lines:
        yield " ".join(split_units(normalizer.normalize(line).replace(_SPACE, " ")))


def _split_words(text: str) -> list[str]:
    return [word for word in text.split(" ") if word]


def split_units(text: str) -> list[str]:
    """Split text into words and marks, with joiners on attached marks: `(so!)` gives `(⁀`, `so`, `⁀!`, `⁀)`.

    Of two attached neighbours, the right one carries the joiner if it is a mark; otherwise the left one, which is then
    a mark, carries it. Words never carry joiners, so a word is the same unit everywhere.
    """
    units = []
    for chunk in text.replace(JOINER, "‿").split():
        parts = _parts(chunk)
        for number, part in enumerate(parts):
            is_mark = _is_mark(part[0])
            before_word = is_mark and number + 1 < len(parts) and not _is_mark(parts[number + 1][0])
            units.append(JOINER * (is_mark and number > 0) + part + JOINER * before_word)
    return units


def _parts(chunk: str) -> list[str]:
    """Split a chunk (text without white space) before and after each mark."""
    parts: list[str] = []
    in_word = False
    for character in chunk:
        is_mark = _is_mark(character)
        if in_word and not is_mark:
            parts[-1] += character
        else:
            parts.append(character)
        in_word = not is_mark
    return parts


@functools.cache
def _is_mark(character: str) -> bool:
    """Return True for a punctuation mark or a symbol (Unicode categories P and S)."""
    return unicodedata.category(character)[0] in "PS"


def join_units(units: list[str]) -> str:
    """Join units into text, with a space between two neighbours unless one has a joiner on the side of the other."""
    text = ""
    glued = True
    for unit in units:
        body = unit.strip(JOINER)
        text += body if glued or unit.startswith(JOINER) else f" {body}"
        glued = unit.endswith(JOINER)
    return text


def _kind_of(model: bytes) -> str:
    """Read the kind of a model from its file: field 3, model_type, of ModelProto's field 2, trainer_spec."""
    trainer_spec = next((value for number, value in _fields(model) if number == 2), b"")
    assert isinstance(trainer_spec, bytes)
    model_type = next((value for number, value in _fields(trainer_spec) if number == 3), 1)
    assert isinstance(model_type, int)
    return _KINDS[model_type]


def _user_defined(model: bytes) -> list[str]:
    """Read the user-defined pieces of a model file: ModelProto.pieces (field 1) whose type (field 3) is 4."""
    found = []
    for number, value in _fields(model):
        if number == 1:
            assert isinstance(value, bytes)
            piece = dict(_fields(value))
            if piece.get(3) == 4:
                text = piece[1]
                assert isinstance(text, bytes)
                found.append(text.decode())
    return found


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield the number and value of each field of a Protocol Buffers message. (This avoids the protobuf package.)"""
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        number, wire_type = tag >> 3, tag & 7
        value: int | bytes
        if wire_type == 0:
            value, position = _varint(message, position)
        else:
            length = {1: 8, 5: 4}.get(wire_type)
            if length is None:
                length, position = _varint(message, position)
            value, position = message[position : position + length], position + length
        yield number, value


def _varint(message: bytes, position: int) -> tuple[int, int]:
    """Read a variable-length integer (seven bits per byte); return the integer and the position after it."""
    value = shift = 0
    while True:
        byte = message[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position
