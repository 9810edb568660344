"""A whole folder verifies; whatever is changed in it is named."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cells import Typed
from trained_runs import TrainedRuns

from kdbench.analysis.publishing.making import publish
from kdbench.experiment.folder import CONFIG, METRICS, PREDICTIONS, RECORD, WEIGHTS
from kdbench.experiment.record_checks import sealed
from kdbench.verify.checking import draw
from kdbench.verify.data import DataSets
from kdbench.verify.stored import read_stored
from kdbench.verify.training import Training

KD, SIMKD = "resnet20-resnet8/kd/seed1-*", "resnet20-resnet8/simkd/seed1-*"


def cell(runs: Path, pattern: str = KD) -> Path:
    (folder,) = runs.glob(f"digits-demo-v1/{pattern}")
    return folder


def edit(folder: Path, change: Callable[[dict[str, Any]], None], *, seal: bool = True) -> None:
    """Change a record; with ``seal``, its own hash covers the change."""
    record = json.loads((folder / RECORD).read_text())
    change(record)
    del record["record_hash"]
    (folder / RECORD).write_text(json.dumps(sealed(record) if seal else record | {"record_hash": "0" * 64}))


def better(record: dict[str, Any]) -> None:
    """Claim four images more than were correct, with all that a record repeats of it."""
    count = record["per_class"]
    for _ in range(4):
        missing = [number - right for number, right in zip(count["images"], count["correct"], strict=True)]
        count["correct"][missing.index(max(missing))] += 1
    record["top1"] = 100 * sum(count["correct"]) / sum(count["images"])
    record["best_on_test"]["top1"] = max(record["top1"], record["best_on_test"]["top1"])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-len(content) // 3] ^= 1
    path.write_bytes(content)


def counts(text: str) -> dict[str, tuple[int, int, int]]:
    """Numbers of same, differing and unchecked by check, from the printed table."""
    rows = re.findall(r"^([a-z ]+?) {2,}(\d+) +(\d+) +(\d+)$", text, re.MULTILINE)
    return {name: (int(same), int(differs), int(unchecked)) for name, same, differs, unchecked in rows}


def differing(text: str) -> set[str]:
    return {name for name, (_, differs, _) in counts(text).items() if differs}


def test_a_whole_folder_verifies(typed: Typed, runs: Path, trained_runs: TrainedRuns, tmp_path: Path) -> None:
    """Two cells and the one of their teacher, all trained again to their end."""
    words = "verify", runs, "--data", f"npz:{trained_runs.npz}", "--retrain", 5, "--epochs", 1, "--seed", 3
    code, out, err = typed(*words)
    assert (code, err) == (0, "")
    assert counts(out) == {
        **dict.fromkeys(("record", "configuration", "metrics", "predictions", "test set", "first epochs"), (3, 0, 0)),
        "teacher": (2, 0, 0),
        "weights": (4, 0, 0),
    }
    assert out.count("final weights are equal; digit for digit") == 3
    assert "3 cells of 3, drawn with --seed 3" in out
    assert "3 records in " in out
    report = (tmp_path / "verified.md").read_text()
    for folder in (cell(runs), cell(runs, SIMKD), cell(runs, "none-resnet20/ce/seed0-*")):
        assert str(folder.relative_to(runs)) in report
        assert json.loads((folder / RECORD).read_text())["record_hash"][:16] in report
    first = (tmp_path / "verified.md").read_bytes()
    assert typed(*words)[0] == 0
    assert (tmp_path / "verified.md").read_bytes() == first, "equal findings give equal bytes"


CHANGES: dict[str, tuple[Callable[[Path], object], set[str]]] = {
    "a record": (lambda f: edit(f, better, seal=False), {"record"}),
    "a record with a new hash": (lambda f: edit(f, better), {"metrics", "predictions", "test set"}),
    "a record cut short": (lambda f: (f / RECORD).write_text("{"), {"record"}),
    "a folder's name": (lambda f: f.rename(f.with_name("seed1-00000000")), {"record"}),
    "another configuration": (
        lambda f: shutil.copy(cell(f.parents[3], SIMKD) / CONFIG, f / CONFIG),
        {"configuration"},
    ),
    "a configuration": (lambda f: (f / CONFIG).write_text("seed = 2\n"), {"configuration"}),
    "metrics": (
        lambda f: (f / METRICS).write_text(json.dumps(json.loads((f / METRICS).read_text()) | {"nll": 0.5}) + "\n"),
        {"metrics"},
    ),
    "an epoch too many": (lambda f: (f / METRICS).write_text(2 * (f / METRICS).read_text()), {"metrics"}),
    "predictions": (lambda f: flip(f / PREDICTIONS), {"predictions"}),
    "weights": (lambda f: flip(f / WEIGHTS), {"weights"}),
    "weights of another cell": (
        lambda f: shutil.copy(cell(f.parents[3], "none-resnet20/ce/seed0-*") / WEIGHTS, f / WEIGHTS),
        {"weights"},
    ),
    "weights of another cell with their hash": (
        lambda f: (
            edit(
                f, lambda r: r.update(weights=json.loads((cell(f.parents[3], SIMKD) / RECORD).read_text())["weights"])
            ),
            shutil.copy(cell(f.parents[3], SIMKD) / WEIGHTS, f / WEIGHTS),
        ),
        set(),
    ),
    "the teacher's weights in a record": (lambda f: edit(f, lambda r: r["teacher"].update(weights="0")), {"teacher"}),
    "the teacher's accuracy": (lambda f: edit(f, lambda r: r["teacher"].update(accuracy=99.0)), {"teacher"}),
    "the teacher": (lambda f: flip(next(f.parents[2].glob("teachers/*")) / WEIGHTS), {"weights"}),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_was_changed_is_named(name: str, typed: Typed, runs: Path, trained_runs: TrainedRuns) -> None:
    change, expected = CHANGES[name]
    change(cell(runs))
    code, out, err = typed("verify", runs, "--data", f"npz:{trained_runs.npz}")
    assert (code, err) == (1 if expected else 0, "")
    assert differing(out) == expected
    assert ("nothing differs" in out) == (not expected)


def test_a_published_folder_verifies_with_the_weights_of_others(
    typed: Typed, runs: Path, trained_runs: TrainedRuns, tmp_path: Path
) -> None:
    publish(runs, tmp_path / "published", "us")
    data = ["--data", f"npz:{trained_runs.npz}"]
    code, out, _ = typed("verify", "published", *data)
    assert code == 0
    assert counts(out)["published files"] == (1, 0, 0)
    assert counts(out)["weights"] == (0, 0, 3)
    assert "test set" not in counts(out)
    code, out, err = typed("verify", "published", *data, "--retrain", 2)
    assert code == 0
    assert "1 cell of 1, drawn with" in out, "the others' teacher is not there"
    assert "2 cells not drawn from: no teacher resnet20@" in out
    code, out, err = typed("verify", "published", *data, "--retrain", 2, "--weights", "runs")
    assert (code, err) == (0, "")
    assert (counts(out)["test set"], counts(out)["first epochs"]) == ((3, 0, 0), (2, 0, 0))
    edit(cell(tmp_path / "published/records"), lambda record: record.update(nll=record["nll"] / 2))
    code, out, _ = typed("verify", "published", *data)
    assert code == 1
    assert differing(out) == {"published files", "metrics"}


def test_cells_are_drawn_by_the_seed(runs: Path, trained_runs: TrainedRuns) -> None:
    datasets = DataSets([f"npz:{trained_runs.npz}"], download=False, workers=None, report=lambda _: None)
    stored = read_stored(runs, None)
    training = Training(stored.places, datasets, None, 1, lambda *_: None)

    def drawn(number: int, seed: int) -> list[str]:
        return [each.folder.name for each in draw(stored, training, number, seed).cells]

    assert drawn(2, 7) == drawn(2, 7)
    assert len({tuple(drawn(1, seed)) for seed in range(20)}) == 3, "each of them can be drawn"
    assert len(set(drawn(9, 1))) == 3, "each of them once"


WRONG: dict[str, tuple[list[object], str]] = {
    "an empty folder": (["empty"], "no finished cells in empty"),
    "no folder": (["nothing"], "the folder nothing does not exist"),
    "no data": (["runs", "--retrain", 1], "its data are npz:.*: name them with --data npz:FILE"),
    "no file": (["runs", "--data", "npz:nothing.npz"], "nothing.npz"),
    "less than none": (["runs", "--retrain", -1], "--retrain must be at least 0"),
    "no epoch": (["runs", "--retrain", 1, "--epochs", 0], "--epochs must be at least 1"),
    "a folder for the report": (["runs", "--out", "runs"], "--out runs is a folder"),
}


@pytest.mark.parametrize("name", WRONG)
def test_bad_input_is_answered_in_a_line(name: str, typed: Typed, runs: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    words, message = WRONG[name]
    code, out, err = typed("verify", *words)
    assert (code, out) == (2, "")
    assert re.search(message, err)
    assert err.count("\n") == 1
    assert not (tmp_path / "verified.md").exists()


def test_without_its_data_weights_are_compared_with_their_hash_alone(typed: Typed, runs: Path) -> None:
    code, out, _ = typed("verify", runs)
    assert code == 0
    assert (counts(out)["weights"], counts(out)["test set"]) == ((4, 0, 0), (0, 0, 3))
