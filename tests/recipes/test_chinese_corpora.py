"""OpenSubtitles and CCMT: splits are disjoint, and unsuitable files give a one-line error."""

import gzip
import os
import random
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.recipes.scripts import RECIPES, load, stub_nmt

subtitles: Any = load("opensubtitles-zh-en/split_films.py")
ccmt: Any = load("ccmt-zh-en/join_ccmt.py")
Pairs = list[tuple[str, str]]


def read(folder: Path, split: str) -> Pairs:
    sides = []
    for ending in ("en", "zh"):
        with gzip.open(folder / f"{split}.{ending}.gz", "rt", encoding="utf-8", newline="\n") as text:
            sides.append(text.read().split("\n")[:-1])
    return list(zip(*sides, strict=True))


def assert_apart(splits: dict[str, Pairs]) -> None:
    for column in range(2):
        sentences = {name: {pair[column] for pair in pairs} for name, pairs in splits.items()}
        for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
            assert not sentences[one] & sentences[other]


# OpenSubtitles


def archive(
    folder: Path, films: int = 160, *, own: int = 6, extra: str = ""
) -> tuple[Path, dict[tuple[str, str], set[str]]]:
    """Write an archive as published by OPUS; return its path, and each pair's films (many for short subtitles)."""
    folder.mkdir(exist_ok=True)
    rng = random.Random(1)
    rows: list[tuple[str, str, str]] = []
    for film in range(films):
        for copy in range(1 + film % 2):  # some films have two translations
            for number in range(6 + own):
                short = rng.randrange(40)
                pair = (
                    (f"Yes {short}.", f"是{short}。") if number < 6 else (f"F{film} {number}.", f"片{film} {number}。")
                )
                rows.append((f"en/{1990 + film % 3}/{film}/{copy}.xml.gz", *pair))
        rows.append((f"en/{1990 + film % 3}/{film}/0.xml.gz", "", "空"))
    path = folder / "en-zh_cn.txt.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("README", "about\n")
        file.writestr("OpenSubtitles.en-zh_cn.ids", "".join(f"{one}\tzh_cn/x.xml.gz\t1\t1\n" for one, _, _ in rows))
        file.writestr("OpenSubtitles.en-zh_cn.en", "".join(f" {english}\n" for _, english, _ in rows) + extra)
        file.writestr("OpenSubtitles.en-zh_cn.zh_cn", "".join(f"{chinese}\n" for _, _, chinese in rows))
    where: dict[tuple[str, str], set[str]] = {}
    for document, english, chinese in rows:
        where.setdefault((english, chinese), set()).add(document.rpartition("/")[0])
    return path, where


def test_films_and_sentences_are_in_one_split_only(tmp_path: Path) -> None:
    path, where = archive(tmp_path)
    subtitles.main([str(path), str(tmp_path / "out"), "--valid", "90", "--test", "80"])
    splits = {name: read(tmp_path / "out", name) for name in ("train", "val", "test")}
    assert (len(splits["val"]), len(splits["test"])) == (90, 80)
    assert_apart(splits)
    films = {
        name: {film for pair in pairs for film in where[pair]} for name, pairs in splits.items() if name != "train"
    }
    assert not films["val"] & films["test"]
    of_training = {next(iter(where[pair])) for pair in splits["train"] if len(where[pair]) == 1}
    assert len(of_training) == 60
    assert not of_training & (films["val"] | films["test"])
    assert any(pair[0].startswith("Yes") for pair in splits["train"])  # the training set keeps short subtitles
    assert len(set(splits["val"])) == 90
    for pairs in splits.values():
        assert set(pairs) <= set(where)
        assert all(english and chinese for english, chinese in pairs)


def test_every_film_gives_as_many_test_subtitles(tmp_path: Path) -> None:
    path, where = archive(tmp_path)
    subtitles.main([str(path), str(tmp_path / "out"), "--valid", "50", "--test", "100"])
    of_film: dict[str, int] = {}
    for pair in read(tmp_path / "out", "test"):
        (film,) = where[pair]
        of_film[film] = of_film.get(film, 0) + 1
    assert set(of_film.values()) == {2}
    assert len(of_film) == subtitles.FILMS


def test_the_same_archive_gives_the_same_files_and_train_is_a_sample(tmp_path: Path) -> None:
    path, _ = archive(tmp_path)
    for folder in ("one", "two"):
        subtitles.main([str(path), str(tmp_path / folder), "--valid", "50", "--test", "50", "--train", "300"])
    for file in sorted(file.name for file in (tmp_path / "one").iterdir()):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    assert 240 < len(read(tmp_path / "one", "train")) < 360
    assert_apart({name: read(tmp_path / "one", name) for name in ("train", "val", "test")})


@pytest.mark.parametrize(
    ("films", "extra", "options", "said"),
    [
        (90, "", [], "There are only 90 films; 100 are held out of training."),
        (120, "one more\n", [], "its files have unequal numbers of lines."),
        (120, "", ["--test", "1000"], "The 50 held-out films have only 302 subtitles that no other split has."),
    ],
)
def test_an_archive_that_cannot_be_split_costs_one_line(
    films: int, extra: str, options: list[str], said: str, tmp_path: Path
) -> None:
    path, _ = archive(tmp_path, films, extra=extra)
    with pytest.raises(SystemExit) as stopped:
        subtitles.main([str(path), str(tmp_path / "out"), "--valid", "50", *options])
    assert str(stopped.value.code).startswith("Error: ")
    assert str(stopped.value.code).endswith(said)


def test_another_archive_costs_one_line(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("cmn.txt", "a\tb\n")
    with pytest.raises(SystemExit, match=r"Error: .*holds 0 files that end in \.ids, not one\."):
        subtitles.main([str(tmp_path / "a.zip"), str(tmp_path / "out")])


def run_recipe(recipe: str, folder: Path, **variables: str) -> "subprocess.CompletedProcess[str]":
    environment = {
        **os.environ,
        "PATH": f"{folder / 'bin' if (folder / 'bin').exists() else stub_nmt(folder)}{os.pathsep}{os.environ['PATH']}",
        "CALLS": str(folder / "calls"),
        **variables,
    }
    return subprocess.run(
        [RECIPES / recipe / "run.sh"], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_opensubtitles_takes_its_archive_from_data(tmp_path: Path) -> None:
    path, _ = archive(tmp_path / "the corpus", own=45)
    for _ in range(2):  # a second run gives the same result
        done = run_recipe("opensubtitles-zh-en", tmp_path, DATA=str(path.parent), WORK="a work", PAIRS="900")
        assert done.returncode == 0, done.stderr
    config = f"--config {RECIPES / 'opensubtitles-zh-en' / 'recipe.toml'}"
    work, splits = tmp_path / "a work", "--train corpus/train --valid corpus/val --test corpus/test"
    assert (tmp_path / "calls").read_text(encoding="utf-8").splitlines() == 2 * [
        f"{work} preprocess -s zh -t en {splits} {config} --overwrite",
        f"{work} train {config} --resume",
        f"{work} translate {config} --beam 5",
        f"{work} score {config} --target-lang en --ref test.en",
    ]
    assert len(read(work / "corpus", "train")) < 1100
    assert (work / "output.en").read_text(encoding="utf-8") == (work / "test.zh").read_text(encoding="utf-8")


# CCMT


def write_parts(folder: Path) -> Path:
    """Write parts in CCMT's formats: two endings, byte-order marks, one part word-segmented, an empty side."""
    texts = {
        "casia2015/casia2015": (
            "ch",
            [("A cat.", "一只猫。"), ("", "空。"), ("Held out.", "其他。"), ("Bye.", "再见 Tom 。")],
        ),
        "datum2017/Book1": (
            "cn",
            [("I use Windows 10.", "我 用 Windows 10 系统 。"), ("Tea.", "茶 很 好 ，"), ("x", "留 出 。")],
        ),
    }
    for name, (ending, pairs) in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        for language, side in (("en", 0), (ending, 1)):
            text = "".join(f"{pair[side]}\r\n" for pair in pairs)
            (folder / f"{name}_{language}.txt").write_bytes(b"\xef\xbb\xbf" + text.encode())
    for name, pairs in (
        ("val", [("Held out.", "留出的。"), ("Both.", "都。")]),
        ("test", [("Z.", "留出。"), ("Both.", "两。")]),
    ):
        for side, language in enumerate(("en", "zh")):
            (folder / f"{name}.{language}").write_text("".join(f"{pair[side]}\n" for pair in pairs), encoding="utf-8")
    return folder


def test_parts_are_joined_without_what_is_held_out(tmp_path: Path) -> None:
    data = write_parts(tmp_path / "data")
    ccmt.main([str(data), str(data / "val"), str(data / "test"), str(tmp_path / "out")])
    splits = {name: read(tmp_path / "out", name) for name in ("train", "val", "test")}
    assert splits == {
        "train": [
            ("A cat.", "一只猫。"),
            ("Bye.", "再见 Tom 。"),  # from a part that is not word-segmented
            ("I use Windows 10.", "我用Windows 10系统。"),
            ("Tea.", "茶很好，"),
        ],
        "val": [("Held out.", "留出的。")],
        "test": [("Z.", "留出。"), ("Both.", "两。")],
    }
    assert_apart(splits)


def test_ccmt_takes_its_parts_from_data(tmp_path: Path) -> None:
    data = write_parts(tmp_path / "data")
    for _ in range(2):
        done = run_recipe("ccmt-zh-en", tmp_path, DATA=str(data), WORK="work")
        assert (done.returncode, done.stderr.count("left out")) in ((0, 3), (0, 0))
    config = f"--config {RECIPES / 'ccmt-zh-en' / 'recipe.toml'}"
    work, splits = tmp_path / "work", "--train corpus/train --valid corpus/val --test corpus/test"
    assert (tmp_path / "calls").read_text(encoding="utf-8").splitlines() == 2 * [
        f"{work} preprocess -s zh -t en {splits} {config} --overwrite",
        f"{work} train {config} --resume",
        f"{work} translate {config} --beam 5",
        f"{work} score {config} --target-lang en --ref test.en",
    ]
    assert (work / "output.en").read_text(encoding="utf-8") == "留出。\n两。\n"


def test_ccmt_without_data_says_where_to_get_it(tmp_path: Path) -> None:
    done = run_recipe("ccmt-zh-en", tmp_path, DATA="", WORK="work")
    assert done.returncode == 2
    assert done.stderr.startswith("Error: DATA must name the folder that has the CCMT corpus.")
    assert not (tmp_path / "work").exists()


def test_parts_that_do_not_fit_cost_one_line(tmp_path: Path) -> None:
    data = write_parts(tmp_path / "data")
    arguments = [str(data), str(data / "val"), str(data / "test"), str(tmp_path / "out")]
    with (data / "casia2015/casia2015_ch.txt").open("a", encoding="utf-8") as file:
        file.write("多\n")
    with pytest.raises(
        SystemExit, match=r"Error: .*casia2015_en.txt and casia2015_ch.txt have unequal numbers of lines"
    ):
        ccmt.main(arguments)
    (data / "casia2015/casia2015_ch.txt").write_bytes(b"a\nb\nc\n\xff\n")
    with pytest.raises(SystemExit, match=r"Error: .*casia2015_ch.txt, line 4 is not UTF-8"):
        ccmt.main(arguments)
    (data / "casia2015/casia2015_ch.txt").unlink()
    with pytest.raises(SystemExit, match=r"Error: .*casia2015_en.txt has 0 files beside it"):
        ccmt.main(arguments)
    (data / "test.zh").unlink()
    (data / "casia2015/casia2015_en.txt").unlink()
    with pytest.raises(SystemExit, match=r"Error: .*test.zh does not exist"):
        ccmt.main(arguments)
    with pytest.raises(SystemExit, match=r"Error: .*has no file that ends in _en.txt"):
        ccmt.main([str(tmp_path / "out"), *arguments[1:]])
