"""Each tracker for real, without a network: what its own reader gives back is what the cells' files hold."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import struct
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tracked_runs import EPOCHS, begin_cell, finish_cell, row, write_rows

from kdbench.analysis.tracking.sending import Sender
from kdbench.analysis.tracking.tracker import PACKAGES, open_tracker
from kdbench.utils.scheduler import Scheduler

Curves = dict[str, list[tuple[int, float]]]
"""Steps and values of each metric."""


def read_tensorboard(out: Path) -> dict[str, Curves]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    runs = {}
    for folder in {file.parent for file in out.rglob("events.*")}:
        events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
        tags = events.Tags()["scalars"]
        points = {tag: [(point.step, point.value) for point in events.Scalars(tag)] for tag in tags}
        runs[folder.name] = {tag: curve for tag, curve in points.items() if "hparams" not in tag}
    return runs


def wandb_records(data: bytes) -> Iterator[bytes]:
    """The records of a file of W&B's: LevelDB's log format behind 7 bytes of their own."""
    assert data[:4] == b":W&B"
    position, parts = 7, b""
    while position < len(data):
        if (left := 32768 - position % 32768) < 7:  # no head fits into the rest of a block
            position += left
            continue
        length, kind = struct.unpack_from("<HB", data, position + 4)
        parts += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a whole record, or its last part
            yield parts
            parts = b""


def read_wandb(out: Path) -> dict[str, Curves]:
    from wandb.proto.wandb_internal_pb2 import Record

    runs: dict[str, Curves] = {}
    for file in out.glob("wandb/offline-run-*/run-*.wandb"):
        record, name = Record(), ""
        curves: Curves = {}
        for data in wandb_records(file.read_bytes()):
            record.ParseFromString(data)
            if record.WhichOneof("record_type") == "run":
                name = record.run.display_name.rpartition("/")[2]
                assert file.stem == f"run-{record.run.run_id}"
                assert record.run.run_id.startswith(name.partition("-")[2]), "the id of a run is the cell's"
            elif record.WhichOneof("record_type") == "history":
                items = {"/".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
                values = {key: json.loads(text) for key, text in items.items() if not key.startswith("_")}
                (step,) = (values.pop(axis) for axis in ("epoch", "pretraining/epoch") if axis in values)
                for key, value in values.items():
                    curves.setdefault(key, []).append((step, value))
        assert name not in runs, "two folders for one run"
        runs[name] = curves
    return runs


def read_mlflow(out: Path) -> dict[str, Curves]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{out / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("study")
    runs = {}
    for run in client.search_runs([experiment.experiment_id]):
        assert run.data.params["cell"] == run.data.tags["kdbench.cell"]
        points = {key: client.get_metric_history(run.info.run_id, key) for key in run.data.metrics}
        name = run.info.run_name.rpartition("/")[2]
        assert name not in runs
        runs[name] = {key: [(point.step, point.value) for point in points[key]] for key in points}
    return runs


def read_trackio(out: Path) -> dict[str, Curves]:
    from trackio.sqlite_storage import SQLiteStorage

    runs: dict[str, Curves] = {}
    for run in SQLiteStorage.get_run_records("study"):
        curves: Curves = {}
        for values in SQLiteStorage.get_logs("study", run["name"], run_id=run["id"]):
            for key, value in values.items():
                if key not in ("step", "timestamp"):
                    curves.setdefault(key, []).append((values["step"], value))
        name = str(run["name"]).rpartition("/")[2]
        assert name not in runs
        runs[name] = curves
    return runs


READERS: dict[str, Callable[[Path], dict[str, Curves]]] = {
    "tensorboard": read_tensorboard,
    "wandb": read_wandb,
    "mlflow": read_mlflow,
    "trackio": read_trackio,
}


def rows_of(folder: Path) -> Curves:
    """What a cell's files say of the metrics that differ between epochs."""
    curves: Curves = {}
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        values = json.loads(line)
        for key in ("lr", "loss/ce", "top1"):
            curves.setdefault(key, []).append((values["epoch"], values[key]))
    return curves


def bytes_below(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.filterwarnings("ignore")  # of the trackers' packages
@pytest.mark.parametrize("name", PACKAGES)
def test_a_tracker_holds_what_the_cells_files_hold(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec(PACKAGES[name]) is None:
        pytest.skip(f"{PACKAGES[name]} is not installed: pip install 'kdbench[{name}]'")
    for variable in ("MLFLOW_TRACKING_URI", "TRACKIO_SPACE_ID", "WANDB_ENTITY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    runs, out = tmp_path / "runs", tmp_path / "out"
    monkeypatch.setenv("TRACKIO_DIR", str(out))
    done, record = begin_cell(runs, "kd")
    write_rows(done, [{"epoch": 1, "lr": 0.5, "loss/stage": 2.0}], name="pretraining.jsonl")
    finish_cell(done, record)
    open_cell, other = begin_cell(runs, "dkd")
    write_rows(open_cell, [row(1)])

    def send() -> int:
        with contextlib.closing(open_tracker(name, out, "study")) as tracker:
            sender = Sender(runs, out, tracker)
            list(sender.send(Scheduler()))
        return sender.tracked.num_sent

    def check() -> None:
        found = READERS[name](out)
        assert found.keys() == {done.name, open_cell.name}
        for folder in (done, open_cell):
            assert found[folder.name].items() >= rows_of(folder).items()
        assert found[done.name]["pretraining/loss/stage"] == [(1, 2.0)]
        best = record["best_on_test"]["top1"]
        ((step, value),) = found[done.name]["record/best_top1"]
        assert step == EPOCHS
        assert value == pytest.approx(best, rel=1e-6)  # TensorBoard keeps single precision

    assert send() == 1 + EPOCHS + 1 + 1
    check()
    before = bytes_below(out)
    assert send() == 0
    assert bytes_below(out) == before, "a repetition changed something"
    write_rows(open_cell, [row(1), row(2)])
    assert send() == (2 if name == "wandb" else 1), "what wandb keeps offline is written anew"
    check()
    write_rows(open_cell, [row(1), row(2, top1=60.0), row(3, top1=60.0)])
    assert send() == 3
    check()
    finish_cell(open_cell, other)
    assert send() == EPOCHS + 1
    check()


@pytest.mark.checkout
def test_every_tracker_is_an_extra() -> None:
    """Its package is what 'pip install kdbench[TRACKER]' brings."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for name, package in PACKAGES.items():
        assert any(text.startswith(package) for text in project["optional-dependencies"][name])
    assert project["optional-dependencies"]["trackers"] == [f"kdbench[{','.join(PACKAGES)}]"]
