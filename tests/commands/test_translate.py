"""`nmt translate`: N lines in, N lines out, whatever their bytes; equivalent options give the same translation."""

import gzip
import json
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
import safetensors.numpy
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nmtcli.commands import translate as translate_command
from nmtcli.config import SearchConfig
from nmtcli.data.subword import BOS, EOS, PAD
from nmtcli.data.text import is_blank
from nmtcli.model.seq2seq import Seq2Seq
from nmtcli.search.host import SearchRules
from nmtcli.search.model_searcher import ModelSearcher
from nmtcli.search.searchers import BatchSizes, Searcher, WorkerSearcher
from nmtcli.search.translator import LineTranslator, SubwordPair
from nmtcli.store.reader import StoredModel
from nmtcli.store.weights import tensors_bytes
from tests.conftest import QUICK, TINY, Nmt, Result, log_of
from tests.oracles import count_lines

CPU = torch.device("cpu")


def translate(nmt: Nmt, model: Path, *options: str | Path, stdin: bytes = b"") -> Result:
    result = nmt("translate", "--model", model, "--threads", "1", *options, stdin=stdin)
    assert result.code == 0, result.err
    return result


@pytest.fixture(scope="module")
def text(corpus: Path) -> bytes:
    """The test sentences, including a blank, a repeated and a long one."""
    lines = (corpus / "test.num").read_bytes().splitlines(keepends=True)
    return b"".join([*lines[:5], b"\n", *lines[3:20], b"7 " * 60 + b"\n", b" \t\n", *lines[20:]])


# lines

LINES = {
    "nothing": b"",
    "one newline": b"\n",
    "only newlines": b"\n\n\n\n\n",
    "blank lines": b"1 2\n\n \n\t\n \t \n3\n",
    "blank in every way": "\u2028\n\u0085\n\x0b\n\x0c\n\u00a0\n\u3000\n\x1c\n1\n".encode(),
    "CRLF": b"1 2\r\n\r\n3 4\r\n",
    "lone CR": b"1 \r 2\n\r\n\r\r\r\n\r3\n4\r",
    "line separators of Unicode": "1\u20282\u20293\u00854\n5\n".encode(),
    "vertical tab and form feed": b"1\x0b2\x0c3\x1c4\x1d5\x1e6\n7\n",
    "NUL": b"1\x002\n\x00\n\x00\x00\x00\n",
    "a mark": b"\xef\xbb\xbf1 2\n\xef\xbb\xbf3\n",
    "only a mark": b"\xef\xbb\xbf",
    "a mark and a newline": b"\xef\xbb\xbf\n",
    "not UTF-8": b"\xff\xfe 1\n2 \x80\x80\n\xc3\n\xed\xa0\x80\n3\n",
    "no final newline": b"1 2\n3 4",
    "a blank last line without newline": b"1 2\n ",
    "special pieces": "<s>\n</s>\n<unk>\n<pad>\n<0x0A>\n<0x0D> 1 <0x0A>\n▁\n▁▁ ▁\n|||\n￭\n<s> 1 </s> 2\n".encode(),
    "unknown characters": "日本語\n🙂 1 2 🙂\n\u200b\n\u0301\n".encode(),
    "5,000 words": b"1 2\n" + b"3 " * 5000 + b"\n4\n",
    "1,000,000 characters": b"5\n" + b"6" * 1_000_000 + b"\n7\n",
}


@pytest.mark.parametrize("name", LINES)
@pytest.mark.parametrize("options", [[], ["--buffer-lines", "1"]], ids=["at once", "one by one"])
def test_as_many_lines_come_out_as_went_in_and_blank_ones_are_empty(
    name: str, options: list[str], trained: Path, nmt: Nmt
) -> None:
    content = LINES[name]
    result = translate(nmt, trained, *QUICK, *options, stdin=content)
    lines = result.lines
    assert len(lines) == count_lines(content)
    assert not any("\r" in line for line in lines)
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n")[: len(lines)]):
        if is_blank(line.decode("utf-8", errors="replace")):
            assert lines[number] == ""


def test_what_is_said_does_not_depend_on_buffer_or_files(trained: Path, nmt: Nmt, tmp_path: Path) -> None:
    content = b"".join(
        text.removeprefix(b"\xef\xbb\xbf") + b"\n" * (not text.endswith(b"\n"))
        for name, text in LINES.items()
        if text and ("," not in name)
    )
    whole = translate(nmt, trained, *QUICK, stdin=content)
    assert len(whole.lines) == content.count(b"\n") > 50
    for buffer in ("1", "7", "2000"):
        assert translate(nmt, trained, *QUICK, "--buffer-lines", buffer, stdin=content).out == whole.out
    file = tmp_path / "input"
    file.write_bytes(content)
    assert translate(nmt, trained, *QUICK, file).out == whole.out
    assert translate(nmt, trained, *QUICK, file, "-", stdin=content).out == whole.out * 2


@settings(max_examples=25)
@example(b"\r\n\r")
@example(b"\n\xef\xbb\xbf\n\x00")
@given(
    st.one_of(
        st.binary(max_size=60),
        st.lists(st.sampled_from([b"\n", b"\r", b" ", b"1 ", b"\xff", "\u2028".encode(), b"<s>"]), max_size=20).map(
            b"".join
        ),
    )
)
def test_any_bytes_keep_their_number_of_lines(trained: Path, nmt: Nmt, content: bytes) -> None:
    assert len(translate(nmt, trained, *QUICK, stdin=content).lines) == count_lines(content)


def bias_towards(model: Path, *pieces: str) -> list[int]:
    """Bias a model so that it emits these subwords for any source, the first with most weight; return their ids."""
    subword = StoredModel.open(model).subwords()[1]
    known = subword.pieces(range(subword.size))
    ids = [known.index(piece) for piece in pieces]
    tensors = safetensors.numpy.load_file(model / "model.safetensors")
    for rank, piece_id in enumerate(ids):
        tensors["projection_bias_V"][piece_id] = 1000.0 - 10 * rank
    (model / "model.safetensors").write_bytes(safetensors.numpy.save(tensors))
    return ids


@pytest.mark.parametrize(
    "pieces",
    [("<0x0A>", "<0x0D>"), ("<0x0D>", "<0x0A>", "</s>"), ("<0x0B>", "<0x0C>"), ("<0x00>",), ("<0x85>", "<0xFF>")],
    ids=" ".join,
)
@pytest.mark.parametrize("options", [["--beam", "1"], ["--beam", "3"], ["--sample"]], ids=" ".join)
def test_a_model_that_says_line_ends_still_gives_one_line_a_line(
    pieces: tuple[str, ...], options: list[str], model: Path, nmt: Nmt
) -> None:
    ids = bias_towards(model, *pieces)
    biased = StoredModel.open(model).read_model().eval()
    source_1S = torch.tensor([[5, EOS]])
    memory, state = biased.encode(source_1S, torch.ones_like(source_1S).bool())
    logits_11V, _, _ = biased.step(memory, state, torch.tensor([[BOS]]))
    assert int(logits_11V.argmax()) == ids[0]  # without the rule it would be emitted
    content = b"1 2\n\n3\r\n" * 4
    result = translate(nmt, model, *options, "--max-length", "0", stdin=content)
    assert len(result.lines) == 12
    assert b"\r" not in result.out
    assert result.lines[1::3] == [""] * 4


@pytest.mark.parametrize("piece", ["<unk>", "<s>", "<pad>"])
def test_a_model_that_says_special_pieces_is_not_heard(piece: str, model: Path, trained: Path, nmt: Nmt) -> None:
    """Disallowed tokens do not change the probabilities of other tokens."""
    bias_towards(model, piece)
    for options in (["--beam", "1"], ["--beam", "3", "--length-penalty", "0"]):
        expected = translate(nmt, trained, *options, stdin=b"1 2 3\n4\n").out
        assert translate(nmt, model, *options, stdin=b"1 2 3\n4\n").out == expected


def test_translation_and_scoring_keep_few_compiled_products(
    trained: Path, nmt: Nmt, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored = ("--source", corpus / "test.num", "--ref", corpus / "test.en", "--threads", "1")
    for options in (("translate", *QUICK), ("score", *scored)):
        monkeypatch.delenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", raising=False)
        assert nmt(*options, "--model", trained, stdin=b"1 2\n").code == 0
        assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "256"


def test_bytes_that_are_not_utf8_are_replaced_and_counted(trained: Path, nmt: Nmt) -> None:
    result = translate(nmt, trained, *QUICK, stdin=b"1\n\xff 2\n3\n\x80\n")
    assert result.err == "Warning: 2 lines were not UTF-8, line 2 first: invalid bytes were replaced\n"
    assert result.out == translate(nmt, trained, *QUICK, stdin="1\n\ufffd 2\n3\n\ufffd\n".encode()).out


def test_a_long_line_is_cut_with_a_warning_that_names_it(trained: Path, nmt: Nmt) -> None:
    long = b"1 2\n\n" + b"3 " * 20 + b"\n4\n" + b"5 " * 21 + b"\n"
    for buffer in ("1", "2", "2000"):
        options = [*QUICK, "--max-source-length", "20", "--buffer-lines", buffer]
        result = translate(nmt, trained, *options, stdin=long)
        assert [line.split(":")[1].split(" is ")[0] for line in result.err.splitlines()] == [" line 5"]
        assert "20 tokens" in result.err
        cut = long.replace(b"5 " * 21, b"5 " * 20)
        assert translate(nmt, trained, *options, stdin=cut) == (0, result.out, "")


def test_what_cannot_be_read_or_written_costs_one_line(trained: Path, nmt: Nmt, tmp_path: Path) -> None:
    def refusal(*options: str | Path) -> tuple[int, str]:
        result = nmt("translate", "--model", trained, *options, stdin=b"1\n")
        assert result.err.count("\n") == 1
        return result.code, result.err

    code, said = refusal(tmp_path / "absent.txt")
    assert code == 3
    assert "absent.txt" in said
    code, said = refusal(tmp_path)
    assert code == 3
    assert str(tmp_path) in said
    code, said = refusal("--alignments", tmp_path / "no such folder/alignments")
    assert code == 6
    assert "no such folder/alignments" in said
    code, said = refusal("--alignments", tmp_path)
    assert code == 6
    code, said = refusal("--model", tmp_path / "no model")
    assert code == 4
    code, said = refusal("--nbest", "9", "--beam", "5")
    assert code == 2
    assert "--beam 9" in said


def test_a_reader_that_goes_away_ends_it_quietly(trained: Path, tmp_path: Path) -> None:
    """The exit code is 141, as for any filter whose pipe is closed."""
    many = tmp_path / "many.txt"
    many.write_bytes(b"1 2 3\n" * 20_000)
    nmt = shlex.join([sys.executable, "-m", "nmtcli", "translate", "--model", str(trained), *QUICK, "--buffer-lines"])
    script = f'{nmt} 50 < "{many}" | head -1; echo "${{PIPESTATUS[@]}}"'
    done = subprocess.run(["bash", "-c", script], capture_output=True, encoding="utf-8", check=False, timeout=120)
    first, status = done.stdout.splitlines()
    assert status == "141 0"
    assert done.stderr == ""
    assert first


def test_lines_come_out_as_they_go_in(trained: Path) -> None:
    """With --buffer-lines 1, a line is translated before the next one is read."""
    command = [sys.executable, "-m", "nmtcli", "translate", "--model", str(trained), *QUICK, "--buffer-lines", "1"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for _ in range(3):
            process.stdin.write(b"1 2\n")
            process.stdin.flush()
            assert process.stdout.readline().endswith(b"\n")
        process.stdin.close()
        assert process.stdout.read() == b""
    assert process.returncode == 0


# n-best, alignments, samples


def nbest_of(result: Result) -> list[list[tuple[str, float, float]]]:
    """Parse n-best output: for each input line its hypotheses with text, log-probability and score."""
    found: list[list[tuple[str, float, float]]] = []
    for line in result.lines:
        match = re.fullmatch(r"(\d+) \|\|\| (.*) \|\|\| (-?\d+\.\d{4}) \|\|\| (-?\d+\.\d{4})", line)
        assert match, line
        if int(match[1]) == len(found):
            found.append([])
        assert int(match[1]) == len(found) - 1
        found[-1].append((match[2], float(match[3]), float(match[4])))
    return found


def test_nbest_gives_the_lines_of_moses_best_first(trained: Path, nmt: Nmt, text: bytes) -> None:
    best = translate(nmt, trained, "--beam", "4", stdin=text).lines
    found = nbest_of(translate(nmt, trained, "--beam", "4", "--nbest", "3", stdin=text))
    assert [candidates[0][0] for candidates in found] == best
    for line, candidates in zip(text.decode().split("\n"), found, strict=False):
        if is_blank(line):
            assert candidates == [("", 0.0, 0.0)]
            continue
        assert 1 <= len(candidates) <= 3
        scores = [score for *_, score in candidates]
        assert scores == sorted(scores, reverse=True)
    assert sum(len(candidates) == 3 for candidates in found) > 30


def test_scores_are_log_probabilities_over_the_length_penalty(trained: Path, nmt: Nmt, text: bytes) -> None:
    subword = StoredModel.open(trained).subwords()[1]
    for alpha in (0.0, 0.7):
        options = ["--beam", "3", "--nbest", "3", "--length-penalty", str(alpha)]
        for candidates in nbest_of(translate(nmt, trained, *options, stdin=text)):
            for said, log_probability, score in candidates:
                if said and alpha == 0:
                    assert score == log_probability
                elif said:
                    length = ((log_probability / score) ** (1 / alpha)) * 6 - 5 if score else 0
                    assert length == pytest.approx(round(length), abs=0.1)
                    assert length >= len(subword.encode(said)) - 1


def forced(models: Sequence[Seq2Seq], source: list[int], ids: list[int]) -> float:
    """Compute log P(ids | source), with each token's probability averaged over the models."""
    source_1S = torch.tensor([source])
    input_1T = torch.tensor([[BOS, *ids[:-1]]])
    with torch.no_grad():
        probabilities_TV = torch.stack(
            [
                model.logits(model.decode(*model.encode(source_1S, torch.ones_like(source_1S).bool()), input_1T))[0]
                .double()
                .softmax(-1)
                for model in models
            ]
        ).mean(0)
    return float(probabilities_TV.log()[torch.arange(len(ids)), torch.tensor(ids)].sum())


@pytest.mark.parametrize("checkpoints", [("best",), ("update-00000050", "best")], ids=["one", "two"])
def test_log_probabilities_are_those_of_forced_decoding(
    checkpoints: tuple[str, ...], trained: Path, text: bytes
) -> None:
    """For one model, and for an ensemble of two."""
    directory = StoredModel.open(trained)
    models = [directory.read_model(name).eval() for name in checkpoints]
    config = SearchConfig(beam=4, batch_tokens=300)
    subwords = SubwordPair(*directory.subwords())
    rules = SearchRules.from_config(config, wanted=4)
    searcher = ModelSearcher(models, rules, subwords.target.forbidden_ids, device=CPU)
    translator = LineTranslator(searcher, subwords, config)
    checked = 0
    for translation in translator.translate(text.decode().split("\n")[:20]):
        for candidate in translation.candidates:
            expected = forced(models, translation.source_ids, candidate.hypothesis.ids)
            assert candidate.hypothesis.log_probability == pytest.approx(expected, abs=1e-4)
            checked += 1
    assert checked > 50


class Alignment(NamedTuple):
    source: list[str]
    target: list[str]
    weights: list[list[float]]


@pytest.mark.parametrize("beam", ["1", "4"])
def test_alignments_are_the_attention_of_the_best_translation(
    beam: str, trained: Path, nmt: Nmt, text: bytes, tmp_path: Path
) -> None:
    options = ["--beam", beam, "--batch-tokens", "200"]
    plain = translate(nmt, trained, *options, stdin=text)
    for form in ("json", "pharaoh"):
        chosen: list[str | Path] = ["--alignments", tmp_path / form, "--alignment-format", form]
        assert translate(nmt, trained, *options, *chosen, stdin=text) == plain
    pharaoh = (tmp_path / "pharaoh").read_text(encoding="utf-8").split("\n")
    records = [Alignment(**json.loads(line)) for line in (tmp_path / "json").read_text(encoding="utf-8").splitlines()]
    assert len(pharaoh) - 1 == len(records) == len(plain.lines)
    for line, said, pairs, record in zip(text.decode().split("\n"), plain.lines, pharaoh, records, strict=False):
        if is_blank(line):
            assert (pairs, record) == ("", Alignment([], [], []))
            continue
        assert "".join(record.source[:-1]).replace("▁", " ").strip() == line.strip()
        assert record.source[-1] == "</s>"
        pieces = record.target[:-1] if record.target[-1] == "</s>" else record.target
        assert "".join(pieces).replace("▁", " ").strip() == said
        assert len(record.weights) == len(record.target)
        expected = []
        for t, weights in enumerate(record.weights):
            assert len(weights) == len(record.source)
            assert sum(weights) == pytest.approx(1.0, abs=1e-4 * len(weights))
            assert min(weights) >= 0
            if t < len(pieces):
                expected.append((t, weights[:-1]))
        found = [tuple(map(int, pair.split("-"))) for pair in pairs.split()]
        assert [t for _, t in found] == [t for t, _ in expected]
        for (s, _), (_, weights) in zip(found, expected, strict=True):
            assert weights[s] == max(weights)


SAMPLED = ("--sample", "--temperature", "1.3")


def test_samples_depend_on_seed_and_line_only(trained: Path, nmt: Nmt, text: bytes) -> None:
    first = translate(nmt, trained, *SAMPLED, stdin=text)
    assert translate(nmt, trained, *SAMPLED, stdin=text).out == first.out
    for options in (["--batch-tokens", "1"], ["--buffer-lines", "3"], ["--batch-tokens", "100000"]):
        assert translate(nmt, trained, *SAMPLED, *options, stdin=text).out == first.out
    assert translate(nmt, trained, *SAMPLED, "--seed", "2", stdin=text).out != first.out
    twice = translate(nmt, trained, *SAMPLED, stdin=b"1 2 3 4 5\n" * 20).lines
    assert len(set(twice)) > 1  # a repeated line gets other samples


def test_nbest_samples_are_that_many_draws(trained: Path, nmt: Nmt) -> None:
    found = nbest_of(translate(nmt, trained, *SAMPLED, "--nbest", "8", stdin=b"1 2 3 4\n\n5 6 7\n"))
    assert [len(candidates) for candidates in found] == [8, 1, 8]
    assert len(set(found[0])) > 1


@pytest.mark.parametrize(
    "options", [["--top-k", "1"], ["--top-p", "0"], ["--temperature", "0.01", "--seed", "2"]], ids=" ".join
)
def test_sampling_from_the_most_probable_token_is_greedy_search(
    options: list[str], trained: Path, nmt: Nmt, text: bytes
) -> None:
    greedy = translate(nmt, trained, "--beam", "1", stdin=text)
    assert translate(nmt, trained, "--sample", *options, stdin=text).out == greedy.out


# equivalent options give the same translation


def greedy_by_hand(model: Seq2Seq, source: list[int], forbidden: Sequence[int], longest: int) -> list[int]:
    """Translate one sentence greedily, token by token."""
    source_1S = torch.tensor([source])
    ids: list[int] = []
    with torch.no_grad():
        memory, state = model.encode(source_1S, torch.ones_like(source_1S).bool())
        while not ids or ids[-1] != EOS:
            logits_11V, _, state = model.step(memory, state, torch.tensor([[ids[-1] if ids else BOS]]))
            logits_V = logits_11V[0, 0]
            logits_V[list(forbidden)] = -torch.inf
            ids.append(EOS if len(ids) + 1 == longest else int(logits_V.argmax()))
    return ids


@pytest.mark.parametrize("max_length", [3.0, 0.3])
def test_a_beam_of_one_is_greedy_search_by_hand(max_length: float, trained: Path, nmt: Nmt, text: bytes) -> None:
    directory = StoredModel.open(trained)
    model = directory.read_model().eval()
    source, target = directory.subwords()
    found = translate(nmt, trained, "--beam", "1", "--max-length", str(max_length), stdin=text).lines
    for line, said in zip(text.decode().split("\n"), found, strict=False):
        ids = source.encode("" if is_blank(line) else line)
        longest = math.floor(max_length * len(ids)) + 10
        expected = greedy_by_hand(model, ids, [PAD, *target.forbidden_ids], longest) if len(ids) > 1 else []
        assert said == target.decode(expected)


@pytest.mark.parametrize("beam", ["1", "5"])
def test_batches_of_one_and_of_many_give_the_same(beam: str, trained: Path, nmt: Nmt, text: bytes) -> None:
    alone = translate(nmt, trained, "--beam", beam, "--batch-tokens", "1", stdin=text)
    for batch_tokens in ("300", "100000"):
        assert translate(nmt, trained, "--beam", beam, "--batch-tokens", batch_tokens, stdin=text).out == alone.out
    options = ["--coverage-penalty", "0.3", "--beam", beam]
    covered = translate(nmt, trained, *options, "--batch-tokens", "1", stdin=text)
    assert translate(nmt, trained, *options, "--batch-tokens", "100000", stdin=text).out == covered.out


def test_a_line_gives_the_same_wherever_it_stands(trained: Path, nmt: Nmt, text: bytes) -> None:
    lines = text.splitlines(keepends=True)
    found = translate(nmt, trained, stdin=text).lines
    backwards = translate(nmt, trained, stdin=b"".join(reversed(lines))).lines
    assert backwards == found[::-1]


CORPORA = Path(os.environ.get("NMT_CORPORA", ""))


@pytest.mark.corpora
@pytest.mark.skipif("NMT_CORPORA" not in os.environ, reason="NMT_CORPORA does not say where the real corpora are")
def test_batches_of_one_and_of_many_give_the_same_on_real_sentences(nmt: Nmt, tmp_path: Path) -> None:
    multi30k, data, model = CORPORA / "multi30k", tmp_path / "data-bin", tmp_path / "model"
    texts: list[str | Path] = ["--train", multi30k / "val", "--valid", tmp_path / "val"]
    for language in ("de", "en"):
        for name, corpus, count in (("val", "val", 20), ("input", "test_2016_flickr", 200)):
            content = gzip.decompress((multi30k / f"{corpus}.{language}.gz").read_bytes())
            (tmp_path / f"{name}.{language}").write_bytes(b"".join(content.splitlines(keepends=True)[:count]))
    assert nmt("preprocess", "-s", "de", "-t", "en", *texts, "--data", data, "--vocab-size", "1500").code == 0
    shape = [*TINY, "--hidden-size", "64", "--embedding-size", "32", "--batch-tokens", "1024"]
    options = ["--max-updates", "60", "--learning-rate", "0.01", "--validate-every", "60"]
    assert nmt("train", "--data", data, "--model", model, *shape, *options).code == 0
    outputs = [
        translate(nmt, model, "--beam", "1", "--batch-tokens", tokens, tmp_path / "input.de").lines
        for tokens in ("1", "2000", "100000")
    ]
    assert len(outputs[0]) == 200
    assert len(set(outputs[0])) > 50
    assert outputs[0] == outputs[1] == outputs[2]


def test_whole_numbers_say_nearly_the_same_whatever_the_batch(trained: Path, nmt: Nmt, text: bytes) -> None:
    int8 = ["--precision", "int8", "--device", "cpu"]
    alone = translate(nmt, trained, *int8, "--batch-tokens", "1", stdin=text)
    assert translate(nmt, trained, *int8, "--batch-tokens", "100000", stdin=text).out == alone.out
    real = translate(nmt, trained, stdin=text)
    same = sum(one == other for one, other in zip(alone.lines, real.lines, strict=True))
    assert same >= 0.8 * len(real.lines)
    scores = [translate(nmt, trained, "--nbest", "1", *more, stdin=text).out for more in ([], int8)]
    assert scores[0] != scores[1]


def test_a_shortlist_loses_little_and_depends_on_the_line_alone(trained: Path, nmt: Nmt, text: bytes) -> None:
    alone = translate(nmt, trained, "--shortlist", "--batch-tokens", "1", stdin=text)
    assert translate(nmt, trained, "--shortlist", "--batch-tokens", "100000", stdin=text).out == alone.out
    plain = translate(nmt, trained, stdin=text)
    same = sum(one == other for one, other in zip(alone.lines, plain.lines, strict=True))
    assert same >= 0.8 * len(plain.lines)
    listed = translate(nmt, trained, "--shortlist", "--nbest", "1", stdin=text)
    assert listed.out != translate(nmt, trained, "--nbest", "1", stdin=text).out  # other normalisation


def test_a_model_without_a_usable_shortlist_is_refused_with_the_mend(model: Path, nmt: Nmt) -> None:
    path = model / "shortlist.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    assert str(path) in nmt("translate", "--model", model, "--shortlist", stdin=b"1\n").refusal(4)
    path.write_bytes(tensors_bytes({"of_piece_SC": torch.full((3, 2), 7)}, {}))
    assert "no shortlist of this model" in nmt("translate", "--model", model, "--shortlist", stdin=b"1\n").refusal(4)
    path.unlink()
    said = nmt("translate", "--model", model, "--shortlist", stdin=b"1\n").refusal(4)
    assert "Leave out --shortlist, or train the model again" in said
    assert translate(nmt, model, stdin=b"1\n").lines


# workers


@pytest.mark.parametrize(
    "options",
    [
        ["--nbest", "3", "--alignments", "FILE", "--alignment-format", "json"],
        ["--sample", "--nbest", "2", "--buffer-lines", "7"],
        ["--beam", "1", "--precision", "int8"],
    ],
    ids=["beam", "samples", "greedy"],
)
def test_workers_say_what_one_process_says(
    options: list[str], trained: Path, nmt: Nmt, text: bytes, tmp_path: Path
) -> None:
    outputs, alignments = [], []
    for workers in ("1", "2"):
        named = [str(tmp_path / workers) if option == "FILE" else option for option in options]
        common = ["--device", "cpu", "--batch-tokens", "60", "--workers", workers]
        outputs.append(translate(nmt, trained, *common, *named, stdin=text).out)
        alignments.append((tmp_path / workers).read_bytes() if "FILE" in options else b"")
    assert outputs[0] == outputs[1]
    assert alignments[0] == alignments[1]


def test_a_damaged_model_is_said_once_whatever_the_workers_and_the_lines(model: Path, nmt: Nmt, tmp_path: Path) -> None:
    weights = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(weights[:-20])
    said = nmt("translate", "--model", model, "--workers", "2", "--device", "cpu", stdin=b"1\n2\n").refusal(4)
    assert "model.safetensors" in said
    kept = tmp_path / "alignments"
    kept.write_text("precious", encoding="utf-8")
    for workers in ("1", "2"):
        options = ["--workers", workers, "--device", "cpu", "--alignments", str(kept)]
        nmt("translate", "--model", model, *options, stdin=b"").refusal(4)
        assert kept.read_text("utf-8") == "precious"


def test_a_worker_that_dies_ends_it_with_one_line(trained: Path) -> None:
    command = [sys.executable, "-m", "nmtcli", "translate", "--model", trained, "--device", "cpu"]
    command += ["--workers", "2", "--buffer-lines", "1"]
    with subprocess.Popen(
        [str(part) for part in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"1\n")
        process.stdin.flush()
        assert process.stdout.readline().endswith(b"\n")  # with running workers, each line is answered at once
        for child in psutil.Process(process.pid).children():
            if "spawn_main" in " ".join(child.cmdline()):
                child.kill()
        _, said = process.communicate(b"2\n")
    assert process.returncode == 6
    assert said.decode() == "Error: a worker process died. It may have run out of memory: use fewer --workers.\n"


@pytest.mark.parametrize(("lines", "workers"), [(10, 0), (1000, 2)])
def test_many_lines_are_shared_among_the_cores(
    lines: int, workers: int, trained: Path, nmt: Nmt, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[int] = []

    @contextmanager
    def here(makers: Sequence[Callable[[], Searcher]], sizes: BatchSizes) -> Iterator[Searcher]:
        started.append(len(makers))
        yield WorkerSearcher(makers[0]().search_all, replace(sizes, at_once=len(makers)))

    monkeypatch.setattr(translate_command, "worker_searcher", here)
    monkeypatch.setattr(translate_command, "cores", lambda: 2)
    result = nmt("translate", "--model", trained, "--beam", "1", "--device", "cpu", stdin=b"1\n" * lines)
    assert result.code == 0, result.err
    assert len(result.lines) == lines
    assert started == [workers] * bool(workers)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--device", "cpu"], "--gpus 2 needs --device cuda, but the device is cpu. Leave one of them out."),
        (["--device", "cuda:1"], "--gpus 2 needs --device cuda, but the device is cuda:1. Leave one of them out."),
        (["--device", "cuda"], "--gpus 2: this machine has 1 GPU. Use fewer."),
        (["--device", "cuda", "--workers", "2"], "--workers 2 works on a CPU only. Use --gpus, or --device cpu."),
    ],
)
def test_gpus_that_cannot_be_are_refused(
    options: list[str], said: str, trained: Path, nmt: Nmt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(translate_command, "choose_device", torch.device)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert nmt("translate", "--model", trained, "--gpus", "2", *options).refusal(2) == f"Error: {said}"


def test_each_gpu_has_a_process(trained: Path, nmt: Nmt, monkeypatch: pytest.MonkeyPatch) -> None:
    """With CPUs posing as GPUs: the first line goes to one process, the second to the other."""
    devices: list[str] = []

    @contextmanager
    def here(makers: Sequence[translate_command.SearcherMaker], sizes: BatchSizes) -> Iterator[Searcher]:
        devices.extend(str(maker.device) for maker in makers)
        searchers = [replace(maker, device=CPU)() for maker in makers]
        yield WorkerSearcher(
            lambda batches: (searchers[number % 2].search(batch) for number, batch in enumerate(batches)),
            replace(sizes, at_once=len(makers)),
        )

    monkeypatch.setattr(
        translate_command, "choose_device", lambda name: torch.device("cpu" if name == "cpu" else "cuda")
    )
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(translate_command, "worker_searcher", here)
    options: list[str | Path] = ["--model", trained, "--beam", "1", "--precision", "fp32", "--batch-tokens", "40"]
    lines = b"3 1 4\n1 5 9 2 6 5\n\n2 7 1 8\n" * 3
    shared = nmt("translate", *options, "--device", "cuda", "--gpus", "2", stdin=lines)
    assert shared.code == 0, shared.err
    assert devices == ["cuda:0", "cuda:1"]
    assert shared.out == nmt("translate", *options, "--device", "cpu", "--workers", "1", stdin=lines).out


# choice of weights


def test_a_checkpoint_is_translated_with_by_its_name(model: Path, nmt: Nmt, text: bytes, tmp_path: Path) -> None:
    def as_the_model(file: Path) -> bytes:
        copied = Path(shutil.copytree(model, tmp_path / f"copy of {file.parent.name}", dirs_exist_ok=True))
        (copied / "model.safetensors").write_bytes(file.read_bytes())
        return translate(nmt, copied, stdin=text).out

    outputs = {name: translate(nmt, model, "--checkpoint", name, stdin=text).out for name in ("last", "best")}
    for update in (50, 100, 150):
        name = f"update-{update:08d}"
        outputs[name] = translate(nmt, model, "--checkpoint", name, stdin=text).out
        assert outputs[name] == as_the_model(model / "checkpoints" / name / "model.safetensors")
    assert len({outputs["update-00000050"], outputs["update-00000100"], outputs["update-00000150"]}) == 3
    assert outputs["last"] == outputs["update-00000150"]
    best = max(log_of(model, "validation"), key=lambda record: (record["bleu"], -record["update"]))["update"]
    assert outputs["best"] == outputs[f"update-{best:08d}"] == translate(nmt, model, stdin=text).out


def test_best_is_the_best_and_not_the_average(nmt: Nmt, data: Path, trained: Path, model: Path, text: bytes) -> None:
    more = ["--average", "3", "--average-of", "last", "--resume"]
    assert nmt("train", "--data", data, "--model", model, *more).code == 0
    assert translate(nmt, model, "--checkpoint", "best", stdin=text).out == translate(nmt, trained, stdin=text).out
    assert (model / "model.safetensors").read_bytes() != (trained / "model.safetensors").read_bytes()


def test_an_ensemble_of_one_model_twice_is_the_model(trained: Path, nmt: Nmt, text: bytes) -> None:
    options = ["--beam", "4", "--nbest", "4"]
    alone = nbest_of(translate(nmt, trained, *options, stdin=text))
    twice = nbest_of(translate(nmt, trained, "--model", trained, *options, stdin=text))
    assert [[said for said, *_ in candidates] for candidates in twice] == [
        [said for said, *_ in candidates] for candidates in alone
    ]
    for ours, theirs in zip(twice, alone, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            assert one[1:] == pytest.approx(other[1:], abs=2e-4)


def test_an_ensemble_of_other_vocabularies_is_refused(
    trained: Path, other_data: Path, nmt: Nmt, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    assert nmt("train", "--data", other_data, "--model", other, *TINY, "--max-updates", "1").code == 0
    said = nmt("translate", "--model", trained, "--model", other, stdin=b"1\n").refusal(4)
    assert str(other) in said
    assert "subword model" in said


def test_the_model_directory_alone_is_enough(trained: Path, nmt: Nmt, text: bytes, tmp_path: Path) -> None:
    """Translation needs neither data directory nor log nor state of the run, and writes nothing."""
    alone = tmp_path / "alone"
    alone.mkdir()
    names = ("config.json", "model.safetensors", "source.model", "target.model")
    for name in names:
        shutil.copyfile(trained / name, alone / name)
        (alone / name).chmod(0o444)
    assert translate(nmt, alone, stdin=text).out == translate(nmt, trained, stdin=text).out
    assert sorted(path.name for path in alone.iterdir()) == sorted(names)
