"""Finished cells of another folder of runs are brought into one's own, each checked and whole."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from cells import Typed

import kdbench
from kdbench.grid.merging import merge
from kdbench.utils.leases import Leases


@pytest.fixture(scope="module")
def other(tiny_npz: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher and two students, one of them with a seed more, on another machine."""
    runs = tmp_path_factory.mktemp("other") / "runs"
    session = kdbench.Session.open("digits-demo-v1", data=f"npz:{tiny_npz}", epochs=1, runs=runs, device="cpu")
    session.train_teacher("resnet14")
    for method, seed in (("ce", 1), ("kd", 1), ("kd", 2)):
        session.run(session.cell(method=method, student="resnet8", teacher="resnet14", seed=seed), cache="off")
    return runs


@pytest.fixture
def source(other: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(other, tmp_path / "source"))


def files(runs: Path) -> dict[str, bytes]:
    return {str(path.relative_to(runs)): path.read_bytes() for path in sorted(runs.rglob("*")) if path.is_file()}


def cell_folder(runs: Path, pattern: str) -> Path:
    (folder,) = runs.glob(f"digits-demo-v1/{pattern}")
    return folder


def test_all_is_brought_once(source: Path, typed: Typed, tmp_path: Path) -> None:
    code, out, err = typed("merge", "source", "--runs", "mine")
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == "source: 4 cells, 1 teacher brought into mine"
    assert "type 'kdbench table mine' to compare them" in out
    assert files(tmp_path / "mine") == files(source)
    assert typed("table", "mine", "--format", "csv")[1] == typed("table", "source", "--format", "csv")[1]
    before = files(tmp_path / "mine")
    _, out, _ = typed("merge", "source", "--runs", "mine")
    assert out.splitlines()[0] == "source: 0 cells, 0 teachers brought into mine; 5 were there already"
    assert files(tmp_path / "mine") == before


def test_what_it_brings_is_finished_there(source: Path, tiny_npz: Path, tmp_path: Path) -> None:
    merge(source, tmp_path / "mine")
    session = kdbench.Session.open(
        "digits-demo-v1", data=f"npz:{tiny_npz}", epochs=1, runs=tmp_path / "mine", device="cpu"
    )
    cell = session.cell(method="kd", student="resnet8", teacher="resnet14", seed=2)
    folder = cell.folder(tmp_path / "mine")
    changed = (folder / "record.json").stat().st_mtime_ns
    assert session.run(cell)["cell"] == cell.id
    assert (folder / "record.json").stat().st_mtime_ns == changed


def test_an_unfinished_cell_is_replaced_by_a_finished_one(source: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    target = mine / cell_folder(source, "*/kd/seed1-*").relative_to(source)
    target.mkdir(parents=True)
    (target / "state").write_bytes(b"half")
    (target / "failed.json").write_text("{}")
    assert merge(source, mine).cells == 4
    assert not {"state", "failed.json"} & {path.name for path in target.iterdir()}


def test_a_cell_that_is_being_run_is_left_alone(source: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    target = mine / cell_folder(source, "*/kd/seed1-*").relative_to(source)
    with Leases() as leases:
        leases.hold(target)
        merged = merge(source, mine)
    assert merged.cells == 3
    (line,) = merged.left_out
    assert f"is being run by process {os.getpid()}" in line
    assert not (target / "record.json").exists()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("record.json", b"{", "is not readable as JSON"),
        ("model.safetensors", b"x", "model.safetensors is damaged"),
        ("model.safetensors", None, "model.safetensors is damaged, or belongs to another result"),
        ("predictions.npz", b"x", "predictions.npz is damaged (not an .npz file"),
        ("predictions.npz", None, "predictions.npz is not the one that the record beside it was written with"),
        ("metrics.jsonl", "pipe", "metrics.jsonl is not a regular file"),
    ],
)
def test_what_is_damaged_is_left_out_by_name(name: str, content: Any, words: str, source: Path, tmp_path: Path) -> None:
    folder = cell_folder(source, "*/kd/seed1-*")
    other = cell_folder(source, "*/kd/seed2-*")
    (folder / name).unlink()
    if content == "pipe":
        os.mkfifo(folder / name)
    else:
        (folder / name).write_bytes((other / name).read_bytes() if content is None else content)
    merged = merge(source, tmp_path / "mine")
    assert merged.cells == 3
    (line,) = merged.left_out
    assert str(folder) in line
    assert words in line
    assert "\n" not in line
    assert not (tmp_path / "mine" / folder.relative_to(source)).exists()


def test_another_result_of_a_cell_is_named_and_yours_is_kept(source: Path, tmp_path: Path) -> None:
    mine = Path(shutil.copytree(source, tmp_path / "mine"))
    folder = cell_folder(mine, "*/kd/seed1-*")
    record = json.loads((folder / "record.json").read_text())
    del record["record_hash"]  # as records of earlier versions, which have none
    (folder / "record.json").write_text(json.dumps(record | {"weights": "0" * 64}))
    before = files(mine)
    merged = merge(source, mine)
    (line,) = merged.left_out
    assert "has another result of this cell" in line
    assert files(mine) == before


@pytest.mark.parametrize("word", ["nowhere", "runs"])
def test_a_folder_that_is_none_or_the_same_is_one_line(word: str, typed: Typed, source: Path, tmp_path: Path) -> None:
    source.rename(tmp_path / "runs")
    code, _, err = typed("merge", word)
    assert code == 2
    assert err.count("\n") == 1
    assert "does not exist" in err if word == "nowhere" else "are one folder" in err


def test_records_without_weights_are_brought_too(source: Path, tmp_path: Path) -> None:
    for path in source.glob("*/*/*/seed*/model.safetensors"):
        path.unlink()
    merged = merge(source, tmp_path / "mine")
    assert (merged.cells, merged.left_out) == (4, [])
