"""Sample segmentations of a text: unigram sampling (Kudo 2018, section 3.3) and BPE-dropout (Provilkov et al. 2020).

SentencePiece can sample too, but seeds its generator anew in each process, so that a resumed training run could not
repeat the draws of an uninterrupted run. Here the same text, alpha and seed give the same ids everywhere. In a model
learnt with SentencePiece's defaults, no piece crosses a word boundary; words are therefore segmented one by one, and
the lattices of short words are cached.
"""

import functools
import math
import random
import re
from collections.abc import Iterator, Sequence
from typing import Any

_SPACE = "▁"
_UNKNOWN_PENALTY = 10.0  # as in SentencePiece: an unknown character scores this much less than the worst piece
_KEPT_WORDS = 20_000  # maximum number of lattices in the cache
_KEPT_LENGTH = 20  # longer words, and sentences without spaces, rarely recur and are not cached [characters]

Way = tuple[float, int, tuple[int, ...]]  # probability or log-weight, start of the piece, ids of the piece


class Segmenter:
    """A sampler of segmentations of text into the pieces of a unigram or bpe model.

    Args:
        processor: a SentencePieceProcessor.
        kind: unigram or bpe.
        user_defined: pieces that are never split; if two of them match at the same position, the longer one is used.
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
        """Sample a segmentation of a text; return its ids, without EOS. Alpha and seed are as for `Subword.sample`."""
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
        """Draw pieces from the end of the word backwards, each with its probability given the pieces after it."""
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
        """Return, for each position in the word, the pieces that end there, with cumulative probabilities.

        A segmentation is weighted by its probability to the power of alpha. The probability of a piece at a
        position is the total weight of the segmentations up to this position that end with the piece, divided by the
        total weight of all segmentations up to this position.
        """
        arriving: list[list[Way]] = [[] for _ in range(len(word) + 1)]  # with log-weights
        lattice: list[list[Way]] = [[]]
        totals = [0.0]  # log of the total weight of the segmentations up to each position
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
        """Yield the end, the score and the ids of each piece that starts at position `start` in a word."""
        if word[start] not in self._ids:
            yield start + 1, self._unknown_score, self._ids_of_unknown(word[start])
        for end in range(start + 1, len(word) + 1):
            piece = word[start:end]
            if piece not in self._beginnings:
                return
            if piece in self._ids:
                yield end, self._scores[piece], (self._ids[piece],)

    def _draw_bpe(self, word: str, alpha: float, generator: random.Random) -> list[int]:
        """Segment by BPE; at each step, drop each possible merge with probability alpha (Provilkov et al., alg. 1)."""
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
        """Return the ids for a character that is not a piece: its bytes, or <unk> if the model has no byte pieces."""
        ids = self._processor.piece_to_id([f"<0x{byte:02X}>" for byte in character.encode()])
        unknown = self._processor.unk_id()
        return (unknown,) if unknown in ids else tuple(ids)
