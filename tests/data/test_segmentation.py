"""The oracles: enumeration of all segmentations for unigram, SentencePiece's own encoding where nothing is random."""

import math
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from nmtcli.data.segmentation import Segmenter
from nmtcli.data.subword import Subword, learn
from tests.data.vocabulary import TEXTS, learn_one, texts

DRAWS = 4000


@pytest.fixture(scope="module")
def processors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, sentencepiece.SentencePieceProcessor]:
    directory = tmp_path_factory.mktemp("models")
    found = {}
    for kind in ("unigram", "bpe"):
        learn_one(directory / kind, kind)
        found[kind] = sentencepiece.SentencePieceProcessor(model_file=str(directory / kind))
    return found


def segmentations(word: str, pieces: set[str]) -> Iterator[list[str]]:
    if not word:
        yield []
    for length in range(1, len(word) + 1):
        if word[:length] in pieces:
            for rest in segmentations(word[length:], pieces):
                yield [word[:length], *rest]


@pytest.mark.parametrize("alpha", [0.0, 0.2, 1.0])
def test_unigram_draws_segmentations_by_their_probability_to_the_power_of_alpha(
    processors: dict[str, sentencepiece.SentencePieceProcessor], alpha: float
) -> None:
    processor = processors["unigram"]
    pieces = {processor.id_to_piece(one) for one in range(4, processor.get_piece_size()) if not processor.is_byte(one)}
    weights = {
        tuple(processor.piece_to_id(way)): math.exp(alpha * sum(processor.get_score(processor.piece_to_id(way))))
        for way in segmentations("▁station", pieces)
    }
    assert len(weights) > 5
    segmenter = Segmenter(processor, "unigram")
    drawn = Counter(tuple(segmenter.draw("station", alpha, seed)) for seed in range(DRAWS))
    assert set(drawn) <= set(weights)
    for way, weight in weights.items():
        share = weight / sum(weights.values())
        assert abs(drawn[way] - DRAWS * share) <= 5 * math.sqrt(DRAWS * share * (1 - share)) + 1


def test_unigram_with_a_large_alpha_draws_the_best_segmentation(
    processors: dict[str, sentencepiece.SentencePieceProcessor],
) -> None:
    segmenter = Segmenter(processors["unigram"], "unigram")
    for text in TEXTS[:6]:
        best = processors["unigram"].encode(text)
        drawn = segmenter.draw(text, 1e6, 1)
        assert processors["unigram"].decode(drawn) == text
        score = processors["unigram"].get_score
        assert sum(score(drawn)) == pytest.approx(sum(score(best)), rel=1e-6)  # there may be ties


@given(text=texts)
@settings(max_examples=200)
def test_bpe_that_leaves_nothing_out_is_the_encoding(
    processors: dict[str, sentencepiece.SentencePieceProcessor], text: str
) -> None:
    segmenter = Segmenter(processors["bpe"], "bpe")
    assert segmenter.draw(text, 0.0, 1) == processors["bpe"].encode(text)


def test_bpe_that_leaves_all_out_is_characters(processors: dict[str, sentencepiece.SentencePieceProcessor]) -> None:
    segmenter = Segmenter(processors["bpe"], "bpe")
    pieces = processors["bpe"].id_to_piece(segmenter.draw("The sea.", 1.0, 1))
    assert pieces == list("▁The▁sea.")


@given(text=texts, alpha=st.sampled_from([0.1, 0.5]), seed=st.integers(0, 2**40))
@settings(max_examples=100)
def test_whatever_is_drawn_is_the_text(
    processors: dict[str, sentencepiece.SentencePieceProcessor], text: str, alpha: float, seed: int
) -> None:
    for kind, processor in processors.items():
        segmenter = Segmenter(processor, kind)
        assert processor.decode(segmenter.draw(text, alpha, seed)) == processor.decode(processor.encode(text))


def test_what_is_kept_of_frequent_words_changes_no_draw(
    processors: dict[str, sentencepiece.SentencePieceProcessor],
) -> None:
    kept = Segmenter(processors["unigram"], "unigram")
    seeds = random.Random(1).sample(range(10**6), 50)
    first = [kept.draw(TEXTS[0], 0.2, seed) for seed in seeds]
    again = [Segmenter(processors["unigram"], "unigram").draw(TEXTS[0], 0.2, seed) for seed in reversed(seeds)]
    assert first == again[::-1]


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_a_model_without_bytes_draws_unk_for_what_it_does_not_know(kind: str, tmp_path: Path) -> None:
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS), model_prefix=str(tmp_path / "m"), model_type=kind, vocab_size=80,
        pad_id=0, unk_id=1, bos_id=2, eos_id=3, hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    processor = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "m.model"))
    assert Segmenter(processor, kind).draw("the Ωsea", 0.3, 1).count(processor.unk_id()) == 1


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_a_model_whose_pieces_span_words_is_drawn_from_as_a_whole(kind: str, tmp_path: Path) -> None:
    lines = ["the old man", "the old sea", "man of the old sea"] * 50
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_prefix=str(tmp_path / "m"), model_type=kind,
        vocab_size=60, split_by_whitespace=False, hard_vocab_limit=False, minloglevel=2, byte_fallback=False,
    )  # fmt: skip
    processor = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "m.model"))
    segmenter = Segmenter(processor, kind)
    drawn = {tuple(processor.id_to_piece(segmenter.draw("the old sea", 0.2, seed))) for seed in range(100)}
    assert any("▁" in piece[1:] for pieces in drawn for piece in pieces)
    assert {"".join(pieces) for pieces in drawn} == {"▁the▁old▁sea"}


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_user_defined_pieces_stay_whole_as_sentencepiece_has_them(kind: str, tmp_path: Path) -> None:
    words = ["tation", "station", "北京大学", "北京"]
    path = tmp_path / "model"
    learn(
        TEXTS * 3, path, kind=kind, vocab_size=700, normalization="identity", character_coverage=1.0, user_words=words
    )
    subword = Subword.load(path)
    for text in ("the station stations 在北京大学，北京 大学", "tationtation x", "北京北京大学北京大"):
        ids = subword.encode(text)
        if kind == "bpe":  # nothing is left out: the one segmentation
            assert subword.sample(text, 0.0, seed=1) == ids
        whole = Counter(piece for piece in subword.pieces(ids) if piece in words)
        assert whole
        for seed in range(20):
            drawn = subword.sample(text, 0.3, seed)
            assert Counter(piece for piece in subword.pieces(drawn) if piece in words) == whole
            assert subword.decode(drawn) == text
