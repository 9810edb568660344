"""Records that were changed, folders that cannot be read, and links: each is named or followed, and nothing more."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from fake_records import fake_record, write_records

from kdbench.analysis.records import read_records
from kdbench.experiment.folder import parse_record, record_flaw
from kdbench.experiment.record_checks import check_record, sealed
from kdbench.utils.reading import Unreadable

Change = Callable[[dict[str, Any]], Any]
CHANGES: dict[str, tuple[Change, str]] = {
    "a seed": (lambda r: r.update(seed=9), "its seed does not match its configuration"),
    "epochs": (lambda r: r.update(epochs=9), "its epochs does not match its configuration"),
    "a precision": (lambda r: r.update(precision="fp16"), "its precision does not match"),
    "a method": (lambda r: r.update(method="at"), "its method does not match"),
    "a student": (lambda r: r.update(student="vgg8"), "its student does not match"),
    "a protocol": (lambda r: r.update(protocol="x"), "its protocol does not match"),
    "overrides": (lambda r: r.update(overrides={"epochs": 2}), "its overrides does not match"),
    "settings": (lambda r: r.update(settings={"alpha": 2}), "its settings does not match"),
    "chosen settings": (lambda r: r.update(settings_chosen={"alpha": 2}), "its settings_chosen does not match"),
    "a list of settings": (lambda r: r.update(settings_chosen=[]), "settings_chosen is [], not an object"),
    "another teacher": (lambda r: r["teacher"].update(network="vgg8"), "its teacher does not match"),
    "true": (lambda r: r.update(top1=True), "top1 must be a number, not True"),
    "a negative nll": (lambda r: r.update(nll=-5.0), "nll must be at least 0, not -5.0"),
    "a huge nll": (lambda r: r.update(nll=10**400), "nll must be a finite number"),
    "a divergence": (lambda r: r.update(teacher_kl=-1.0), "teacher_kl must be at least"),
    "seconds": (lambda r: r["cost"].update(train_seconds=-20.0), "cost.train_seconds must be at least"),
    "no seconds": (lambda r: r["cost"].update(train_seconds=0), "cost.train_seconds must be at least"),
    "views": (lambda r: r["cost"].update(views_per_image=0), "cost.views_per_image must be at least 1, not 0"),
    "half a view": (lambda r: r["cost"].update(views_per_image=1.5), "cost.views_per_image must be a whole number"),
    "parameters": (lambda r: r["cost"].update(extra_parameters=10**30), "cost.extra_parameters must be"),
    "a best epoch": (lambda r: r["best_on_test"].update(epoch=10**6), "its best epoch comes after the last"),
    "a best accuracy": (lambda r: r["best_on_test"].update(top1=1.0), "its best top1 is below that of the last epoch"),
    "a loss": (lambda r: r["loss"].update(ce="low"), "loss.ce must be a number, not 'low'"),
    "a first loss": (lambda r: r.update(first_losses=[{"ce": 2.3}, {"ce": "nan"}]), "first_losses, step 2, ce must be"),
    "a step without terms": (lambda r: r.update(first_losses=[7]), "is not a kdbench record: "),
    "weights": (lambda r: r.update(weights=None), "weights is None, not a text"),
    "a measure": (lambda r: r.update(macro_f1=101.0), "macro_f1 must be between 0 and 100, not 101.0"),
    "a hash": (lambda r: r.update(predictions=1), "predictions is 1, not a text"),
    "classes": (lambda r: r.update(per_class=[7]), "is not a kdbench record: "),
    "counts": (lambda r: r.update(per_class={"correct": [0.5], "images": [1]}), "something else than counts"),
    "a negative count": (lambda r: r.update(per_class={"correct": [-1], "images": [1]}), "something else than counts"),
    "more correct": (lambda r: r.update(per_class={"correct": [2], "images": [1]}), "more correct images than images"),
    "another sum": (lambda r: r.update(per_class={"correct": [6], "images": [10]}), "per class are not its top1"),
    "no base": (lambda r: r.update(base_source="kdbench 0.2.0"), "is not a kdbench record: 'base' is missing"),
    "a device": (lambda r: r["environment"].update(device=["cpu"]), "environment.device is ['cpu'], not a text"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_record_is_told_from_its_configuration_and_its_ranges(name: str) -> None:
    change, words = CHANGES[name]
    record = json.loads(json.dumps(fake_record("kd", 1, 70.0)))
    check_record(record)
    change(record)
    with pytest.raises(ValueError, match=r"^is ") as refused:
        check_record(record)
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("base", "source", "words"),
    [
        (["kd"], "kdbench 0.2.0", r"config\.method\.base is \['kd'\], not a text"),
        ("kd", 1, "base_source is 1, not a text"),
    ],
)
def test_a_base_that_is_no_text_is_told(base: object, source: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        check_record(fake_record("dot", 1, 70.0, settings={"base": base}, base_source=source))


def test_one_flipped_digit_of_a_record_with_its_hash_is_seen(tmp_path: Path) -> None:
    (path,) = write_records(tmp_path, [sealed(fake_record("kd", 1, 71.0))], indent=2)
    whole = path.read_text()
    assert parse_record(path)["top1"] == 71.0
    for digits, others in (("71.0", "91.0"), ("20.0", "10.0"), ("a device", "a Device"), ('"dirty"', '"dirtx"')):
        assert digits in whole
        path.write_text(whole.replace(digits, others))
        with pytest.raises(Unreadable, match="is damaged: its fields do not match its hash"):
            parse_record(path)


def test_a_key_twice_is_seen(tmp_path: Path) -> None:
    (path,) = write_records(tmp_path, [fake_record("kd", 1, 71.0)])
    path.write_text(path.read_text().replace('"top1": 71.0', '"top1": 71.0, "top1": 91.0', 1))
    (problem,) = read_records(tmp_path).problems
    assert "key 'top1' is given twice" in problem


def test_a_record_of_before_is_compared_with_the_end_of_its_metrics(tmp_path: Path) -> None:
    record = fake_record("kd", 1, 71.0)
    (path,) = write_records(tmp_path, [record])
    rows = [{"epoch": epoch, "lr": 0.1, "loss/ce": 0.1, "top1": 71.0} for epoch in (record["epochs"] - 1, 0)]
    rows[-1]["epoch"] = record["epochs"]
    metrics = path.with_name("metrics.jsonl")
    metrics.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    assert record_flaw(path, record["cell"]) is None
    path.write_text(json.dumps(record | {"top1": 71.2}))
    (problem,) = read_records(tmp_path).problems
    assert problem.endswith("is damaged: its top1 is 71.2, and metrics.jsonl beside it has 71.0")
    path.write_text(json.dumps(record | {"loss": {"ce": 0.2}}))
    assert "its loss.ce is 0.2" in str(record_flaw(path, record["cell"]))
    metrics.write_text("a damaged line")  # it is the report that names it
    assert parse_record(path)["loss"] == {"ce": 0.2}


def test_whether_a_record_is_whole_is_told_again_when_it_changes(tmp_path: Path) -> None:
    record = fake_record("kd", 1, 71.0)
    (path,) = write_records(tmp_path, [record])
    content, cell = path.read_bytes(), record["cell"]
    assert record_flaw(path, cell) is None
    assert record_flaw(path, "another") == "belongs to another cell"
    path.write_bytes(b"")
    assert "is not readable as JSON" in str(record_flaw(path, cell))
    path.write_bytes(content)
    assert record_flaw(path, cell) is None
    path.unlink()
    assert "cannot be read" in str(record_flaw(path, cell))


def test_a_folder_that_is_a_link_is_read_once(tmp_path: Path) -> None:
    runs, elsewhere = tmp_path / "runs", tmp_path / "elsewhere"
    write_records(runs, [fake_record("kd", 1, 70.0)])
    write_records(elsewhere, [fake_record("kd", 2, 72.0)])
    (runs / "a pair on another disk").symlink_to(elsewhere)
    (runs / "again").symlink_to(elsewhere / "0")
    (runs / "0" / "above").symlink_to(runs)
    (runs / "up").symlink_to("..")
    (runs / "itself").symlink_to("itself")
    (runs / "nowhere").symlink_to("nothing")
    records = read_records(runs)
    assert sorted(records.frame["seed"]) == [1, 2]
    assert not records.problems


def test_a_folder_without_rights_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_records(tmp_path, [fake_record("kd", seed, 70.0) for seed in (1, 2)])
    scandir = os.scandir

    def scan(folder: str) -> Iterator[os.DirEntry[str]]:
        if folder == str(tmp_path / "0"):
            raise PermissionError(13, "Permission denied")  # modes of files do not bind every user that runs tests
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", scan)
    records = read_records(tmp_path)
    assert records.frame["seed"].tolist() == [2]
    assert records.problems == [f"folder {tmp_path / '0'} is left out: it cannot be read: Permission denied"]


@pytest.mark.parametrize(
    "damage",
    [b"", b"\xff\xfe", b"method = {}", b"student = 'vgg8'\n", bytes(10), b"[method]\nname = 1979-05-27\n", None],
)
def test_the_damaged_configuration_of_a_begun_cell_is_named(damage: bytes | None, tmp_path: Path) -> None:
    write_records(tmp_path, [fake_record("kd", 1, 70.0)])
    record = fake_record("kd", 2, 70.0)
    folder = tmp_path / f"seed2-{record['cell'][:8]}"
    folder.mkdir()
    config = tomli_w.dumps(record["config"] | {"id": record["cell"], "chosen": {}}).encode()
    (folder / "config.toml").write_bytes(b"\xef\xbb\xbf" + config)  # a byte-order mark is no damage
    assert [cell.config["seed"] for cell in read_records(tmp_path).unfinished] == [2]
    if damage is None:
        (folder / "config.toml").unlink()
        os.mkfifo(folder / "config.toml")
    else:
        (folder / "config.toml").write_bytes(damage)
    records = read_records(tmp_path)
    (problem,) = records.problems
    assert problem.startswith(f"{folder / 'config.toml'} is left out: it ")
    assert records.frame["seed"].tolist() == [1]
    assert not records.unfinished
