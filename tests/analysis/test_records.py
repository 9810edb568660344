"""Reading folders of records: whole ones, and everything else that may lie there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from cells import Typed, end_epoch, make_run, steps
from fake_records import fake_record, write_records

from kdbench.analysis.records import as_frame, read_records
from kdbench.engine.run_state import finish
from kdbench.errors import UserError
from kdbench.experiment.folder import PREDICTIONS, RECORD, WEIGHTS


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    write_records(tmp_path / "runs", [fake_record("kd", seed, 70.0 + seed) for seed in range(3)])
    return tmp_path / "runs"


def test_what_decides_results_is_read_from_the_part_that_the_id_is_of(runs: Path) -> None:
    frame = read_records(runs).frame
    assert frame["top1"].tolist() == [70.0, 71.0, 72.0]
    assert frame["seed"].tolist() == [0, 1, 2]
    assert frame["rules"].nunique() == 1
    assert json.loads(frame["rules"].iloc[0])["epoch_rule"] == "last"
    assert frame["folder"].tolist() == [str(runs / str(number)) for number in range(3)]


def changed(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        record = json.loads(path.read_text())
        change(record)
        path.write_text(json.dumps(record))

    return damage


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "half-written": (lambda path: path.write_bytes(path.read_bytes()[:500]), "not readable as JSON"),
    "empty": (lambda path: path.write_bytes(b""), "not readable as JSON"),
    "binary": (lambda path: path.write_bytes(bytes(range(256))), "not UTF-8 text"),
    "deep": (lambda path: path.write_text("[" * 100_000), "not readable as JSON"),
    "a list": (lambda path: path.write_text("[1, 2]"), "not a JSON object"),
    "foreign": (lambda path: path.write_text('{"accuracy": 71.2}'), "not a kdbench record"),
    "another seed": (changed(lambda r: r["config"].update(seed=9)), "its configuration does not match its cell id"),
    "another teacher": (
        changed(lambda r: r["teacher"].update(id="file:1")),
        "its teacher does not match its configuration",
    ),
    "no cost": (changed(lambda r: r.pop("cost")), "'cost' is missing"),
    "a word": (changed(lambda r: r.update(top1="71.2")), "top1 must be a number, not '71.2'"),
    "not a number": (changed(lambda r: r.update(nll=float("nan"))), "nan is not a number"),
    "a fraction": (changed(lambda r: r.update(top1=101.0)), "top1 must be between 0 and 100, not 101.0"),
    "null": (changed(lambda r: r.update(environment=None)), "not a kdbench record"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_what_is_no_record_is_named_and_skipped(name: str, runs: Path) -> None:
    damage, words = DAMAGES[name]
    damage(runs / "1" / "record.json")
    records = read_records(runs)
    assert records.frame["seed"].tolist() == [0, 2]
    (problem,) = records.problems
    assert problem.startswith(f"{runs / '1' / 'record.json'} is left out: ")
    assert words in problem


def test_an_unreadable_record_is_named(runs: Path) -> None:
    (runs / "1" / "record.json").unlink()
    (runs / "1" / "record.json").symlink_to(runs / "nowhere")
    assert len(read_records(runs).problems) == 1


@pytest.mark.parametrize("command", ["table", "leaderboard", "compare"])
def test_the_exit_code_tells_of_damage_and_the_rest_is_shown(command: str, typed: Typed, runs: Path) -> None:
    alone = [fake_record("ce", seed, 65.0, teacher=None) for seed in range(3)]
    write_records(runs / "alone", alone)
    DAMAGES["half-written"][0](runs / "1" / "record.json")
    code, out, err = typed(command, runs)
    assert code == 2
    assert "kd" in out
    assert str(runs / "1" / "record.json") in err
    assert "Traceback" not in err


def test_many_damaged_records_are_counted(typed: Typed, runs: Path) -> None:
    for number in range(15):
        path = runs / f"bad{number}" / "record.json"
        path.parent.mkdir()
        path.write_text("{")
    code, _, err = typed("table", runs)
    assert code == 2
    assert err.count("is left out") == 10
    assert "and 5 more" in err


def test_two_records_of_one_cell_are_refused_with_both_places(runs: Path) -> None:
    write_records(runs / "copy", [fake_record("kd", 1, 71.0)])
    with pytest.raises(UserError, match="two records of one cell") as refused:
        read_records(runs)
    assert str(runs / "1") in str(refused.value)
    assert str(runs / "copy" / "0") in str(refused.value)


def begin(folder: Path, seed: int, failure: str = "", **changes: Any) -> None:
    record = fake_record("kd", seed, 70.0, **changes)
    folder.mkdir(parents=True)
    config = record["config"] | {"id": record["cell"], "chosen": record["settings_chosen"]}
    (folder / "config.toml").write_text(tomli_w.dumps(config))
    if failure:
        (folder / "failed.json").write_text(json.dumps({"reason": failure, "text": "it did"}))


def test_unfinished_cells_are_read_with_their_configuration(runs: Path) -> None:
    begin(runs / "begun", 7)
    begin(runs / "failed", 8, "diverged")
    (runs / "other").mkdir()
    (runs / "other" / "config.toml").write_text("title = 'something else'")
    records = read_records(runs)
    assert not records.problems
    assert {cell.config["seed"]: cell.failure for cell in records.unfinished} == {7: "", 8: "diverged"}


def test_unfinished_cells_are_counted_on_the_screen(typed: Typed, runs: Path) -> None:
    begin(runs / "begun", 7)
    code, _, err = typed("table", runs)
    assert code == 0
    assert "1 cell has started but not finished" in err


@pytest.mark.parametrize("command", ["table", "leaderboard", "compare", "claims", "report"])
def test_an_empty_folder_says_what_to_run(command: str, typed: Typed, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    code, out, err = typed(command, tmp_path / "empty")
    assert (code, out) == (2, "")
    assert "no finished cells in" in err
    assert "kdbench demo" in err
    code, _, err = typed(command, tmp_path / "absent")
    assert code == 2
    assert f"the folder {tmp_path / 'absent'} does not exist" in err


def test_records_in_memory_are_read_the_same_way() -> None:
    record = fake_record("kd", 1, 70.0)
    assert as_frame([record])["top1"].tolist() == [70.0]
    with pytest.raises(ValueError, match="not a kdbench record"):
        as_frame([{"cell": record["cell"]}])


def test_what_a_killed_process_was_writing_is_tidied_away(tiny_npz: Path, tmp_path: Path) -> None:
    run = make_run(tiny_npz, tmp_path, "ce")
    for _ in run.cell.epochs:
        steps(run, 3)
        run.flush_losses()
        end_epoch(run)
    left = run.folder / ".metrics.jsonl.e_lqp3kw.tmp"
    left.write_text("half a li")
    finish(run)
    assert sorted(path.name for path in run.folder.iterdir()) == ["metrics.jsonl", WEIGHTS, PREDICTIONS, RECORD]
