"""Cells that hold images out: their metrics, records, caches and resumed runs."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import torch
from cells import CPU, Typed
from own_files import HELD_OUT_RULES, HELD_OUT_SHARE
from trained_runs import TrainedRuns

import kdbench
from kdbench.data.held_out import Division
from kdbench.engine.session import Session
from kdbench.experiment import own_folders
from kdbench.experiment.cell import Cell
from kdbench.models.evaluate import predict
from kdbench.net import Net
from kdbench.teachers.demand import Wanted, visited


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Any:
    own = tmp_path_factory.mktemp("own")
    (own / "protocols").mkdir()
    (own / "protocols" / "held-out-v1.toml").write_text(HELD_OUT_RULES)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv(own_folders.OWN, str(own))
        yield Session.open("held-out-v1", runs=tmp_path_factory.mktemp("runs"), device="cpu")


@pytest.fixture(scope="module")
def cells(session: Session) -> tuple[Cell, ...]:
    """Finished cells without a teacher, and with one whose outputs come from a cache."""
    teacher = session.train_teacher("resnet8")
    alone = session.cell(method="ce", student="resnet8", seed=1)
    taught = session.cell(method="kd", teacher=teacher.spec, student="resnet8", seed=1)
    session.run_all([alone, taught], cache="on")
    return alone, taught


def record_of(session: Session, cell: Cell) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((cell.folder(session.runs) / "record.json").read_text())
    return record


def rows_of(session: Session, cell: Cell) -> list[dict[str, Any]]:
    lines = (cell.folder(session.runs) / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_the_record_has_what_the_saved_network_says_of_held_out_images(
    session: Session, cells: tuple[Cell, ...]
) -> None:
    labels = session.dataset.train_labels
    held_out = Division.of(labels, HELD_OUT_SHARE).held_out
    for cell in cells:
        network = kdbench.load(cell.folder(session.runs))
        net = Net(network.name, network.backbone, mean=(0.3,) * 3, std=(0.37,) * 3, image_size=network.image_size)
        logits = predict(net, session.dataset.unaugmented(held_out, CPU)).double()
        record = record_of(session, cell)["validation"]
        assert record["images"] == len(held_out)
        right = (logits.argmax(dim=1) == labels[held_out]).double().mean()
        assert record["top1"] == pytest.approx(100 * right.item())
        loss = torch.nn.functional.cross_entropy(logits, labels[held_out])
        assert record["nll"] == pytest.approx(loss.item(), rel=1e-6)


def test_the_best_epoch_is_chosen_by_held_out_images(session: Session, cells: tuple[Cell, ...]) -> None:
    for cell in cells:
        rows, best = rows_of(session, cell), record_of(session, cell)["validation"]["best"]
        chosen = rows[best["epoch"] - 1]
        assert best["top1"] == chosen["validation/top1"] == max(row["validation/top1"] for row in rows)
        assert best["test_top1"] == chosen["top1"]


def test_the_cache_has_the_views_of_the_images_that_are_trained_on(session: Session, cells: tuple[Cell, ...]) -> None:
    taught = cells[1]
    record = record_of(session, taught)
    assert record["cost"]["teacher_outputs"] == "cache"
    pairs = torch.from_numpy(visited([Wanted.by(taught)], session.device_data))  # type: ignore[arg-type]
    index, _ = session.device_data.images.numbering.split(pairs)
    trained = Division.of(session.dataset.train_labels, HELD_OUT_SHARE).trained
    assert torch.equal(index.unique(), trained)
    assert record["cost"]["student_views"] == 2 * (len(trained) // 64 * 64 + len(trained) % 64)


def test_the_teacher_is_trained_on_all_images(session: Session, cells: tuple[Cell, ...]) -> None:
    own = session.teacher_cell("resnet8")
    assert cells[1].teacher == own.as_teacher
    assert "validation" not in own.protocol.identity()
    assert "validation" not in record_of(session, own)


def test_a_teacher_may_leave_the_held_out_images_out(session: Session, cells: tuple[Cell, ...], typed: Typed) -> None:
    card = session.train_teacher("resnet8", seed=5, hold_out=True)
    own = session.teacher_cell("resnet8", seed=5, hold_out=True)
    assert card.validation == HELD_OUT_SHARE
    assert card.origin.endswith("20 % held out")
    assert record_of(session, own)["validation"]["images"] == len(
        Division.of(session.dataset.train_labels, HELD_OUT_SHARE).held_out
    )
    taught = session.cell(method="kd", teacher=card.spec, student="resnet8", seed=1)
    session.run(taught)
    code, out, _ = typed("table", str(session.runs))
    assert code == 0
    assert "20 % of the training images of each class are held out\n" in out
    assert re.search(r"are held out; the teacher resnet8 \([^;\n]+\) was trained on them as well\n", out)


def test_nothing_can_be_left_out_where_nothing_is_held_out(typed: Typed) -> None:
    code, _, err = typed("teacher", "train", "--protocol", "digits-demo-v1", "--network", "resnet8", "--hold-out")
    assert code == 2
    assert "digits-demo-v1 holds no images out" in err


def test_tables_report_the_epoch_that_is_best_on_held_out_images(
    session: Session, cells: tuple[Cell, ...], typed: Typed
) -> None:
    code, out, _ = typed("table", str(session.runs), "--epoch", "validation", "--format", "csv")
    assert code == 0
    assert "which is best on the held-out images" in out
    assert "NLL, ECE, agree and KL: after the last epoch" in out
    assert "after the last epoch" not in typed("table", str(session.runs))[1]
    for cell in cells:
        assert f"{record_of(session, cell)['validation']['best']['test_top1']:.2f}" in out


def test_tables_say_what_to_do_where_nothing_is_held_out(typed: Typed, trained_runs: TrainedRuns) -> None:
    code, _, err = typed("table", str(trained_runs.runs), "--epoch", "validation")
    assert code == 2
    assert "held no images out" in err
    assert "leave --epoch out" in err
