import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from nmtcli.data.subword import BOS, EOS, JOINER, PAD, SPECIALS, UNK, Subword, join_units, learn, split_units
from nmtcli.errors import ConfigError, DataError, DirectoryError
from tests.data.vocabulary import TEXTS, learn_one, texts

KINDS = ("unigram", "bpe", "char", "word", "none")
PIECES = ("unigram", "bpe", "char")
SPECIAL_LOOKING = [
    "<s>",
    "</s>",
    "<pad>",
    "<unk>",
    "<0x41>",
    "<0x0A>",
    "a<s>b </s> <pad>",
    JOINER,
    f"{JOINER}a",
    "<joiner:⁀>",
    "⁇",
]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Subword]:
    directory = tmp_path_factory.mktemp("models")
    for kind in KINDS:
        learn_one(directory / kind, kind, vocab_size=0 if kind in ("word", "none") else 420)
    return {kind: Subword.load(directory / kind) for kind in KINDS}


def single_spaced(text: str) -> str:
    return " ".join(text.split(" ")).strip(" ")


@pytest.mark.parametrize("kind", KINDS)
def test_the_special_ids_are_pad_unk_bos_eos(models: dict[str, Subword], kind: str) -> None:
    assert models[kind].pieces(range(4)) == ["<pad>", "<unk>", "<s>", "</s>"]
    assert list(SPECIALS.values()) == [PAD, UNK, BOS, EOS] == [0, 1, 2, 3]


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_file_says_its_kind(models: dict[str, Subword], kind: str) -> None:
    assert models[kind].kind == ("word" if kind == "none" else kind)
    assert models[kind].joins == (kind == "word")


@pytest.mark.parametrize("kind", KINDS)
def test_text_that_was_learnt_from_comes_back(models: dict[str, Subword], kind: str) -> None:
    for text in TEXTS[:6]:
        ids = models[kind].encode(text)
        assert ids[-1] == EOS
        assert ids.count(EOS) == 1
        assert UNK not in ids
        assert models[kind].decode(ids) == text


@given(text=texts)
@settings(max_examples=200)
@example("  a  b ")
@example("nul \0, U+2028 \u2028, U+0085 \x85, VT \x0b, FF \x0c, BOM \ufeff, TAB \t.")
@example("\U0001f600 \U0010ffff")
def test_any_text_comes_back_from_pieces_but_for_runs_of_spaces(models: dict[str, Subword], text: str) -> None:
    for kind in PIECES:
        ids = models[kind].encode(text)
        assert UNK not in ids
        words = [word for word in text.split(" ") if word]
        assert models[kind].decode(ids) == " ".join(words)


@given(text=texts)
@settings(max_examples=200)
@example('"Yes," he (so!) said -- don\'t.')
@example("3.14 km/h, a_b, x^2; ...")
def test_words_and_marks_come_back_from_their_units_but_for_white_space(text: str) -> None:
    assume(JOINER not in text)
    assert join_units(split_units(text)) == " ".join(text.split())


def test_words_look_the_same_wherever_they_stand(models: dict[str, Subword]) -> None:
    model = models["word"]
    assert model.pieces(model.encode('"station" station, (station) station.')) == [
        f'▁"{JOINER}', "▁station", f'▁{JOINER}"', "▁station", f"▁{JOINER},", f"▁({JOINER}", "▁station", f"▁{JOINER})",
        "▁station", f"▁{JOINER}.", "</s>",
    ]  # fmt: skip


def test_tokenised_words_are_taken_verbatim(models: dict[str, Subword], tmp_path: Path) -> None:
    words = ["don't", "a@@", "``", "<s/>", JOINER, "1.", "x\xa0y", "<x>", "&apos;s", "a\u2028b", "⁀,"]
    learn_one(tmp_path / "m", "none", [" ".join(words)], vocab_size=0)
    model = Subword.load(tmp_path / "m")
    assert model.size == 4 + len(words)
    ids = model.encode("  ".join(words))
    assert len(set(ids)) == len(words) + 1
    assert UNK not in ids
    assert model.decode(ids) == " ".join(words)


@pytest.mark.parametrize("kind", ["word", "none"])
def test_each_unknown_word_is_one_unk(models: dict[str, Subword], kind: str) -> None:
    ids = models[kind].encode("zebra giraffe The quokka")
    assert [one == UNK for one in ids] == [True, True, False, True, False]
    assert models[kind].decode(ids) == "The"


@pytest.mark.parametrize("kind", ["word", "none"])
def test_a_small_word_vocabulary_holds_the_most_frequent_words(kind: str, tmp_path: Path) -> None:
    learn_one(tmp_path / "m", kind, ["a b c d", "a b c", "a b", "a"] * 3, vocab_size=6 + (kind == "word"))
    model = Subword.load(tmp_path / "m")
    assert set(model.pieces(range(4, model.size))) - {"<joiner:⁀>"} == {"▁a", "▁b"}


def test_a_normalisation_rule_meets_words_before_they_are_split(tmp_path: Path) -> None:
    learn_one(tmp_path / "m", "word", ["ｗａｉｔ… what？"] * 3, vocab_size=0, normalization="nmt_nfkc")
    model = Subword.load(tmp_path / "m")
    ids = model.encode("ｗａｉｔ… what？")
    assert UNK not in ids
    assert model.decode(ids) == "wait... what?"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", SPECIAL_LOOKING)
def test_text_that_looks_special_is_text(models: dict[str, Subword], kind: str, text: str) -> None:
    ids = models[kind].encode(text)
    assert not {PAD, BOS} & set(ids)
    assert ids.count(EOS) == 1
    if kind in PIECES:
        assert models[kind].decode(ids) == text
    control = models[kind].forbidden_ids if kind == "word" else ()
    assert not (set(control) - {UNK}) & set(ids)


@pytest.mark.parametrize("kind", PIECES)
def test_special_looking_text_may_be_learnt_from(kind: str, tmp_path: Path) -> None:
    learn_one(tmp_path / "m", kind, ["a<s>b<0x41>c </s> <pad> <unk> <s><s>", "▅ and ▁ and \0 and \r"] * 50)
    model = Subword.load(tmp_path / "m")
    for text in ("a<s>b", "<0x41>", "</s> <pad>"):
        ids = model.encode(text)
        assert not {PAD, UNK, BOS} & set(ids)
        assert model.decode(ids) == text


@pytest.mark.parametrize("kind", KINDS)
def test_the_mark_of_a_space_is_a_space(models: dict[str, Subword], kind: str) -> None:
    assert models[kind].encode("The▁old man") == models[kind].encode("The old man")
    assert models[kind].encode("▁") == [EOS]


@pytest.mark.parametrize("kind", KINDS)
def test_empty_text_is_one_eos(models: dict[str, Subword], kind: str) -> None:
    assert models[kind].encode("") == models[kind].encode("  ") == [EOS]
    assert models[kind].decode([EOS]) == models[kind].decode([]) == ""


@pytest.mark.parametrize("kind", KINDS)
def test_many_texts_are_encoded_as_each_alone(models: dict[str, Subword], kind: str) -> None:
    some = [*TEXTS[:6], "", "zebra ▁ quokka"]
    assert models[kind].encode_many(some) == [models[kind].encode(text) for text in some]
    assert models[kind].encode_many([]) == []


@pytest.mark.parametrize("kind", PIECES)
def test_search_must_not_say_special_pieces_nor_line_ends(models: dict[str, Subword], kind: str) -> None:
    model = models[kind]
    forbidden = set(model.forbidden_ids)
    assert {PAD, UNK, BOS} < forbidden
    assert EOS not in forbidden
    assert set(model.encode("\n")) & forbidden
    assert set(model.encode("\r")) & forbidden
    for text in TEXTS:
        assert not set(model.encode(text)) & forbidden


def test_search_must_not_say_pieces_that_hold_a_line_end(tmp_path: Path) -> None:
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a\rb c\nd"] * 9), model_prefix=str(tmp_path / "m"), model_type="word", vocab_size=6,
        pad_id=0, unk_id=1, bos_id=2, eos_id=3, normalization_rule_name="identity", minloglevel=2,
    )  # fmt: skip
    model = Subword.load(tmp_path / "m.model")
    assert model.forbidden_ids == (PAD, UNK, BOS, 4, 5)
    assert model.decode([4, 5]).replace("a b", "").replace("c d", "") == " "


def test_search_must_not_say_the_marker_of_joiners(models: dict[str, Subword]) -> None:
    assert models["word"].pieces(models["word"].forbidden_ids) == ["<pad>", "<unk>", "<s>", "<joiner:⁀>"]


@given(data=st.data())
def test_whatever_ids_are_decoded_they_are_one_line(models: dict[str, Subword], data: st.DataObject) -> None:
    for kind in KINDS:
        ids = data.draw(st.lists(st.integers(0, models[kind].size - 1), max_size=20))
        text = models[kind].decode([*ids, *models[kind].encode("\n\r")])
        assert "\n" not in text
        assert "\r" not in text
        text.encode("utf-8")  # no half characters either


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_the_same_seed_gives_the_same_segmentation_in_any_process(models: dict[str, Subword], kind: str) -> None:
    model, text = models[kind], TEXTS[0]
    drawn = [model.sample(text, 0.3, seed) for seed in range(20)]
    assert [model.sample(text, 0.3, seed) for seed in reversed(range(20))][::-1] == drawn
    assert len({tuple(ids) for ids in drawn}) > 5
    assert {model.decode(ids) for ids in drawn} == {text}
    assert all(ids[-1] == EOS and ids.count(EOS) == 1 for ids in drawn)
    elsewhere = (
        "import pickle, sys; model, text = pickle.load(sys.stdin.buffer); "
        "sys.stdout.buffer.write(pickle.dumps([model.sample(text, 0.3, seed) for seed in range(20)]))"
    )
    found = subprocess.run(
        [sys.executable, "-c", elsewhere], input=pickle.dumps((model, text)), stdout=subprocess.PIPE, check=True
    )
    assert pickle.loads(found.stdout) == drawn


@pytest.mark.parametrize("kind", ["char", "word", "none"])
def test_sampling_is_refused_where_there_is_one_segmentation(models: dict[str, Subword], kind: str) -> None:
    with pytest.raises(ConfigError, match="subword sampling needs a unigram or bpe model"):
        models[kind].sample("text", 0.1, 1)


def test_a_seed_may_be_any_whole_number(models: dict[str, Subword]) -> None:
    assert models["bpe"].sample("", 0.1, 2**70) == [EOS]
    assert models["bpe"].decode(models["bpe"].sample("The sea", 0.1, -5)) == "The sea"


@pytest.mark.parametrize("kind", KINDS)
def test_a_pickled_model_is_the_same_model(models: dict[str, Subword], kind: str) -> None:
    copy = pickle.loads(pickle.dumps(models[kind]))
    assert copy.sha256 == models[kind].sha256
    assert copy.encode(TEXTS[1]) == models[kind].encode(TEXTS[1])


@pytest.mark.parametrize("kind", KINDS)
def test_learning_twice_gives_the_same_bytes(kind: str, tmp_path: Path) -> None:
    learn_one(tmp_path / "one", kind)
    learn_one(tmp_path / "two", kind)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@pytest.mark.parametrize("kind", KINDS)
def test_a_vocabulary_is_no_larger_than_the_text_fills(kind: str, tmp_path: Path) -> None:
    learn_one(tmp_path / "m", kind, vocab_size=100_000)
    assert Subword.load(tmp_path / "m").size < 1000


@pytest.mark.parametrize(("kind", "vocab_size"), [("unigram", 10), ("bpe", 260), ("char", 100), ("word", 5)])
def test_a_vocabulary_without_room_for_one_piece_is_refused(kind: str, vocab_size: int, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"--vocab-size must be at least .* but is {vocab_size}"):
        learn_one(tmp_path / "m", kind, vocab_size=vocab_size)


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_a_vocabulary_without_room_for_the_characters_is_refused_with_their_number(kind: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--vocab-size 270 is too small") as refused:
        learn_one(tmp_path / "m", kind, vocab_size=270)
    needed = int(refused.value.mend.split()[2])
    learn_one(tmp_path / "m", kind, vocab_size=needed)
    assert Subword.load(tmp_path / "m").size == needed


def test_a_small_character_vocabulary_leaves_the_rare_ones_to_bytes(tmp_path: Path) -> None:
    learn_one(tmp_path / "m", "char", ["aaa bbb c"] * 9, vocab_size=263)
    model = Subword.load(tmp_path / "m")
    assert model.pieces(model.encode("ab c")) == ["▁", "a", "b", "▁", "<0x63>", "</s>"]


@pytest.mark.parametrize("nothing", [[], ["", "  "], ["\0\r"]])
def test_nothing_cannot_be_learnt_from(nothing: list[str], tmp_path: Path) -> None:
    for kind in KINDS:
        with pytest.raises(DataError, match="there is no text to learn a vocabulary from"):
            learn_one(tmp_path / "m", kind, nothing)


def test_texts_are_learnt_from_as_they_come(tmp_path: Path) -> None:
    def once() -> Iterator[str]:
        yield from TEXTS

    learn(once(), tmp_path / "m", kind="bpe", vocab_size=420, normalization="identity", character_coverage=1.0)
    assert Subword.load(tmp_path / "m").kind == "bpe"


def test_a_model_that_is_missing_or_damaged_is_refused(models: dict[str, Subword], tmp_path: Path) -> None:
    with pytest.raises(DirectoryError, match="does not exist"):
        Subword.load(tmp_path / "none.model")
    with pytest.raises(DirectoryError, match="is not a regular file"):
        Subword.load(tmp_path)
    learn_one(tmp_path / "m", "unigram")
    whole = (tmp_path / "m").read_bytes()
    for damaged in (b"", b"text\n", whole[:100], whole[:-1], whole[: len(whole) // 2]):
        (tmp_path / "m").write_bytes(damaged)
        with pytest.raises(DirectoryError, match="is not a complete SentencePiece model"):
            Subword.load(tmp_path / "m")


def test_a_model_with_other_special_ids_is_refused(tmp_path: Path) -> None:
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS), model_prefix=str(tmp_path / "m"), vocab_size=100, minloglevel=2,
        hard_vocab_limit=False,
    )  # fmt: skip
    with pytest.raises(DirectoryError, match=r"has pad, unk, bos, eos at -1, 0, 1, 2, not at 0, 1, 2, 3"):
        Subword.load(tmp_path / "m.model")
