"""Draws one segmentation of a text at random: unigram's sampling (Kudo 2018, section 3.3) and BPE-dropout.

SentencePiece samples too, but from a generator that is salted anew in each process: what it draws cannot be drawn again
by another process, so that a resumed training run would not go on as the one that it continues. Here the same text,
alpha and seed give the same ids everywhere. In a model that was learnt with SentencePiece's defaults no piece reaches
over the start of a word, so that words are segmented one by one, and what was computed for a frequent word is kept.
"""

import functools
import math
import random
import re
from collections.abc import Iterator, Sequence
from typing import Any

_SPACE = "▁"
_UNKNOWN_PENALTY = 10.0  # SentencePiece's own, below the lowest score of a piece
_KEPT_WORDS = 20_000
_KEPT_LENGTH = 20  # longer words, or sentences without spaces, do not come again [characters]

Way = tuple[float, int, tuple[int, ...]]  # a probability; where the piece starts; its ids


class Segmenter:
    """Segmentations of text by the pieces of a unigram or bpe model.

    Args:
        processor: a SentencePieceProcessor.
        kind: unigram or bpe.
        user_defined: pieces that are whole wherever the text has them; of two that start at one place the longer.
    """

    def __init__(self, processor: Any, kind: str, user_defined: Sequence[str] = ()) -> None:
        self._processor = processor
        self._ids: dict[str, int] = {}
        self._scores: dict[str, float] = {}
        is_no_text = (processor.is_control, processor.is_unknown, processor.is_byte, processor.is_unused)
        for piece_id in range(processor.get_piece_size()):
            if not any(test(piece_id) for test in is_no_text):
                piece = processor.id_to_piece(piece_id)
                self._ids[piece] = piece_id
                self._scores[piece] = processor.get_score(piece_id)
        self._beginnings = {piece[:length] for piece in self._ids for length in range(1, len(piece) + 1)}
        longest_first = sorted(user_defined, key=lambda piece: (-len(piece), piece))
        self._user_defined = re.compile(f"({'|'.join(map(re.escape, longest_first))})") if user_defined else None
        self._splits_words = not any(_SPACE in piece[1:] for piece in self._ids)
        self._unknown_score = min(self._scores.values(), default=0.0) - _UNKNOWN_PENALTY
        self._draw_word = self._draw_bpe if kind == "bpe" else self._draw_unigram
        self._kept_lattice = functools.lru_cache(_KEPT_WORDS)(self._lattice)

    def draw(self, text: str, alpha: float, seed: int) -> list[int]:
        """The ids of a segmentation, without EOS; see `Subword.sample`."""
        generator = random.Random(seed)
        normalized = self._processor.normalize(text)
        words = normalized.replace(_SPACE, f" {_SPACE}").split(" ") if self._splits_words else [normalized]
        if self._user_defined is None:
            return [one for word in words for one in self._draw_word(word, alpha, generator)]
        ids: list[int] = []
        for word in words:
            for number, part in enumerate(self._user_defined.split(word)):  # every second part is a match
                ids += [self._ids[part]] if number % 2 else self._draw_word(part, alpha, generator)
        return ids

    def _draw_unigram(self, word: str, alpha: float, generator: random.Random) -> list[int]:
        """Backwards from the end of the word, each piece with its probability given what follows."""
        lattice = (self._kept_lattice if len(word) <= _KEPT_LENGTH else self._lattice)(word, alpha)
        pieces: list[tuple[int, ...]] = []
        end = len(word)
        while end:
            drawn = generator.random()
            ways = lattice[end]
            _, end, ids = next((way for way in ways if drawn < way[0]), ways[-1])
            pieces.append(ids)
        return [one for ids in reversed(pieces) for one in ids]

    def _lattice(self, word: str, alpha: float) -> list[list[Way]]:
        """For each position, the pieces that end there. The probability of a piece is the share that it ends of all
        segmentations up to there, each one's probability taken to the power of alpha; and cumulated."""
        arriving: list[list[Way]] = [[] for _ in range(len(word) + 1)]  # with logarithms
        lattice: list[list[Way]] = [[]]
        totals = [0.0]  # logarithms
        for start in range(len(word)):
            for end, score, ids in self._pieces_from(word, start):
                arriving[end].append((totals[start] + alpha * score, start, ids))
            ways = arriving[start + 1]
            highest = max(log_weight for log_weight, _, _ in ways)
            total = highest + math.log(math.fsum(math.exp(log_weight - highest) for log_weight, _, _ in ways))
            totals.append(total)
            lattice.append([])
            cumulative = 0.0
            for log_weight, way_start, ids in ways:
                cumulative += math.exp(log_weight - total)
                lattice[-1].append((cumulative, way_start, ids))
        return lattice

    def _pieces_from(self, word: str, start: int) -> Iterator[tuple[int, float, tuple[int, ...]]]:
        """The pieces of a word that start at a position: where they end, their score, their ids."""
        if word[start] not in self._ids:
            yield start + 1, self._unknown_score, self._ids_of_unknown(word[start])
        for end in range(start + 1, len(word) + 1):
            piece = word[start:end]
            if piece not in self._beginnings:
                return
            if piece in self._ids:
                yield end, self._scores[piece], (self._ids[piece],)

    def _draw_bpe(self, word: str, alpha: float, generator: random.Random) -> list[int]:
        """Before each merge, every possible one is left out with probability alpha (Provilkov et al. 2020, alg. 1)."""
        symbols = list(word)
        while True:
            merges = [
                (self._scores[pair], -place)
                for place, pair in enumerate(map(str.__add__, symbols, symbols[1:]))
                if pair in self._scores and generator.random() >= alpha
            ]
            if not merges:
                break
            place = -max(merges)[1]
            symbols[place : place + 2] = [symbols[place] + symbols[place + 1]]
        ids: list[int] = []
        for symbol in symbols:
            ids += [self._ids[symbol]] if symbol in self._ids else self._ids_of_unknown(symbol)
        return ids

    def _ids_of_unknown(self, character: str) -> tuple[int, ...]:
        """The ids of a character that is no piece: its bytes, or <unk> where the model has no bytes."""
        ids = self._processor.piece_to_id([f"<0x{byte:02X}>" for byte in character.encode()])
        unknown = self._processor.unk_id()
        return (unknown,) if unknown in ids else tuple(ids)
