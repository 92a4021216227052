"""A data directory appears whole or not at all; what was saved of one that is not is there again for the same run."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nmtcli.data.corpus import FORMAT
from nmtcli.data.files import GrowingFile
from nmtcli.data.writing import ArrayWriter, Unfinished, new_data_directory
from nmtcli.errors import DirectoryError, WorldError


@pytest.fixture
def data(tmp_path: Path) -> Path:
    with new_data_directory(str(tmp_path / "data-bin"), overwrite=False) as unfinished:
        (unfinished.directory / "meta.json").write_text(json.dumps({"format": FORMAT}))
    return tmp_path / "data-bin"


def test_a_directory_appears_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "data-bin"
    with new_data_directory(str(path), overwrite=False) as unfinished:
        assert not path.exists()
        (unfinished.directory / "file").write_text("whole")
    assert (path / "file").read_text() == "whole"
    assert os.listdir(path.parent) == ["data-bin"]


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_nothing_is_left_where_it_failed(tmp_path: Path, failure: type[BaseException]) -> None:
    def fail() -> None:
        with new_data_directory(str(tmp_path / "data-bin"), overwrite=False) as unfinished:
            (unfinished.directory / "file").write_text("half")
            raise failure

    with pytest.raises(failure):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_run_left_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "data-bin.partial" / "work").mkdir(parents=True)
    (tmp_path / "data-bin.partial" / "half").write_text("half")
    with new_data_directory(str(tmp_path / "data-bin"), overwrite=False) as unfinished:
        assert list(unfinished.directory.iterdir()) == [unfinished.work]
        assert list(unfinished.work.iterdir()) == []
    assert os.listdir(tmp_path) == ["data-bin"]


def test_a_data_directory_is_replaced_only_if_that_is_asked_for(data: Path) -> None:
    before = (data / "meta.json").read_bytes()
    with (
        pytest.raises(DirectoryError, match=r"already exists\. Use --overwrite"),
        new_data_directory(str(data), overwrite=False),
    ):
        pass
    with pytest.raises(RuntimeError), new_data_directory(str(data), overwrite=True):
        raise RuntimeError
    assert (data / "meta.json").read_bytes() == before
    with new_data_directory(str(data), overwrite=True) as unfinished:
        (unfinished.directory / "new").write_text("new")
    assert os.listdir(data) == ["new"]
    assert os.listdir(data.parent) == ["data-bin"]


def test_a_run_killed_while_it_replaced_loses_nothing(data: Path) -> None:
    data.rename(data.with_name("data-bin.old"))
    with pytest.raises(DirectoryError, match="already exists"), new_data_directory(str(data), overwrite=False):
        pass
    assert json.loads((data / "meta.json").read_text())["format"] == FORMAT


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("content", ["a file", "a folder of other things", "a model directory"])
def test_anything_else_is_never_replaced(tmp_path: Path, content: str, overwrite: bool) -> None:
    path = tmp_path / "mine"
    if content == "a file":
        path.write_text("mine")
    else:
        path.mkdir()
        name, text = ("thesis.tex", "mine") if content == "a folder of other things" else ("meta.json", '{"format": 1}')
        (path / name).write_text(text)
    with (
        pytest.raises(DirectoryError, match="exists and is not a data directory"),
        new_data_directory(str(path), overwrite=overwrite),
    ):
        pass
    assert path.read_text() == "mine" if content == "a file" else len(list(path.iterdir())) == 1


def test_an_empty_folder_may_be_filled(tmp_path: Path) -> None:
    (tmp_path / "data-bin").mkdir()
    with new_data_directory(str(tmp_path / "data-bin"), overwrite=False) as unfinished:
        (unfinished.directory / "file").write_text("whole")
    assert os.listdir(tmp_path / "data-bin") == ["file"]


def test_a_folder_below_a_file_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    with (
        pytest.raises(DirectoryError, match="cannot be made"),
        new_data_directory(str(tmp_path / "file" / "data-bin"), overwrite=False),
    ):
        pass


def test_two_runs_do_not_write_the_same_directory(tmp_path: Path) -> None:
    with new_data_directory(str(tmp_path / "data-bin"), overwrite=False) as unfinished:
        (unfinished.directory / "file").write_text("first")
        with (
            pytest.raises(WorldError, match="another run is writing"),
            new_data_directory(str(tmp_path / "data-bin"), overwrite=False),
        ):
            pass
    assert (tmp_path / "data-bin" / "file").read_text() == "first"


def test_what_was_saved_is_there_again_for_the_same_run(tmp_path: Path) -> None:
    first = Unfinished(tmp_path, "one")
    file = first.growing("grows")
    file.write(b"saved")
    first.save({"read": 5})
    file.write(b" and not saved")
    file.flush()
    again = Unfinished(tmp_path, "one")
    assert again.state == {"read": 5}
    grown = again.growing("grows")
    assert grown.size == 5
    grown.write(b" more")
    grown.close()
    assert (tmp_path / "grows").read_bytes() == b"saved more"


@pytest.mark.parametrize("harm", ["another run", "a file cut short", "a file gone", "no JSON", "no object", "nothing"])
def test_what_was_saved_counts_only_if_it_is_whole_and_of_the_same_run(tmp_path: Path, harm: str) -> None:
    first = Unfinished(tmp_path, "one")
    first.growing("grows").write(b"saved")
    first.save({"read": 5})
    state = tmp_path / "work" / "state.json"
    if harm == "a file cut short":
        os.truncate(tmp_path / "grows", 4)
    elif harm == "a file gone":
        (tmp_path / "grows").unlink()
    elif harm in ("no JSON", "no object"):
        state.write_text("{" if harm == "no JSON" else "[]")
    again = Unfinished(tmp_path, "two" if harm == "another run" else "one")
    assert again.state == ({"read": 5} if harm == "nothing" else {})
    assert (tmp_path / "grows").exists() == (harm == "nothing")


@pytest.mark.parametrize(
    ("failure", "stays"), [(WorldError("full"), True), (KeyboardInterrupt(), True), (ValueError(), False)]
)
def test_what_was_saved_stays_where_another_try_may_do_better(
    tmp_path: Path, failure: BaseException, stays: bool
) -> None:
    def fail() -> None:
        with new_data_directory(str(tmp_path / "data-bin"), overwrite=False, run="one") as unfinished:
            unfinished.save({"read": 5})
            raise failure

    with pytest.raises(type(failure)) as caught:
        fail()
    assert [path.name for path in tmp_path.iterdir()] == ["data-bin.partial"] * stays
    assert len(getattr(caught.value, "__notes__", [])) == stays
    with new_data_directory(str(tmp_path / "data-bin"), overwrite=False, run="one") as unfinished:
        assert unfinished.state == ({"read": 5} if stays else {})


@given(st.lists(st.lists(st.integers(0, 65_535), max_size=9), max_size=5), st.integers(0, 5))
def test_an_array_is_read_as_it_was_written_whether_or_not_in_one_go(
    tmp_path_factory: pytest.TempPathFactory, parts: list[list[int]], stop: int
) -> None:
    path = tmp_path_factory.mktemp("array") / "grows.npy"
    file = GrowingFile(path)
    writer = ArrayWriter(file, np.dtype("<u2"))
    for number, part in enumerate(parts):
        if number == stop:  # killed: the header was never completed, and more was written than was saved
            size = file.size
            writer.append(np.array([7, 7]))
            file.close()
            file = GrowingFile(path, size)
            writer = ArrayWriter(file, np.dtype("<u2"))
        writer.append(np.array(part, dtype=np.int64))
    writer.close()
    assert np.load(path).tolist() == [one for part in parts for one in part]
