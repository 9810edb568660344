"""The HTML report of what is hostile, damaged or missing."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import tomli_w
from cells import Typed
from fake_records import fake_record
from report_pages import report
from report_runs import EPOCHS, line, records, undrawn, write_runs

from kdbench.analysis.plots.curves import Curve, read_curve
from kdbench.analysis.records import read_records
from kdbench.analysis.report import write_report
from kdbench.analysis.splitting import split
from kdbench.errors import UserError

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</script><b>$x_1^2$",
    "]]>{{ 7 * 7 }}\x07&amp;",
)


def hostile_records(texts: tuple[str, ...]) -> list[dict[str, Any]]:
    """Records in which each text stands wherever a user can write one."""
    student, teacher, family, setting = texts
    made = [fake_record("ce", seed, 70.0 + seed, teacher=None, student=student) for seed in (1, 2)]
    for method in texts:
        for seed in (1, 2):
            chosen = {setting: setting} if method == student else {}
            made.append(
                fake_record(
                    method, seed, 71.0 + seed, student=student, teacher=teacher, family=family, chosen=chosen,
                    settings_source=family, loss={setting: 1.0},
                )
            )  # fmt: skip
            made[-1]["environment"]["device"] = setting
    return made


def test_texts_of_users_do_not_act(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pages = []
    for name, texts in (("runs", HOSTILE), ("plain", ("z0", "z1", "z2", "z3"))):
        folders = write_runs(tmp_path / name, hostile_records(texts))
        (folders[0] / "metrics.jsonl").write_text("damaged")
        pages.append(report(tmp_path / name, tmp_path / f"{name}-out"))
        monkeypatch.setattr("kdbench.analysis.report.sections.draw", undrawn)
    page, plain = pages
    # The same tags and attributes as with harmless names: no text became markup.
    assert page.shape() == plain.shape()
    assert not any(name.startswith("on") for _, own in page.tags for name in own)
    assert "{{ 7 * 7 }}" in page.text
    titles = {cell[0] for cell in page.data["cells"].values()}
    for text in HOSTILE[1:]:
        assert f"{text}, {HOSTILE[1]} > {HOSTILE[0]}, seed 2" in titles
    for path in (tmp_path / "runs-out" / "plots").iterdir():
        assert re.fullmatch(r"[A-Za-z0-9._-]+\.(svg|pdf)", path.name)
        if path.suffix == ".svg":
            root = ElementTree.fromstring(path.read_text())
            assert not any(element.tag.endswith(("script", "img", "}b")) for element in root.iter())


@pytest.mark.usefixtures("quick")
def test_a_damaged_line_is_left_out_and_named(tmp_path: Path) -> None:
    folders = write_runs(tmp_path / "runs", records())
    path = folders[2] / "metrics.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:4], '{"epoch": 5, "top1": 7', *lines[5:-1], "[]", lines[-1][:20]]))
    curve = read_curve(path)
    assert curve is not None
    assert curve.damaged == (5, 12, 13)
    assert curve.epochs == (1, 2, 3, 4, *range(6, EPOCHS))
    assert curve.loss[1] == pytest.approx(2.0)
    page = report(tmp_path / "runs", tmp_path / "out")
    assert "3 lines are damaged and left out (5, 12, 13)" in page.text
    assert str(path) in page.text


@pytest.mark.parametrize(
    "text", ['{"epoch": 1, "top1": NaN}', '{"epoch": 0, "top1": 1}', '{"top1": 1}', "null", '{"epoch": 1, "top1": "x"}']
)
def test_a_line_without_an_epoch_and_an_accuracy_is_damaged(tmp_path: Path, text: str) -> None:
    (tmp_path / "m").write_text(text)
    assert read_curve(tmp_path / "m") == Curve((), (), (), (1,))


def test_an_epoch_written_twice_counts_once(tmp_path: Path) -> None:
    first, second = (line({"top1": top1}, 3) for top1 in (50.0, 60.0))
    (tmp_path / "m").write_text(f"{json.dumps(first)}\n\n{json.dumps(second)}\n")
    curve = read_curve(tmp_path / "m")
    assert curve is not None
    assert curve.top1 == (second["top1"],)


@pytest.mark.usefixtures("quick")
def test_unfinished_and_damaged_cells_are_named(tmp_path: Path, typed: Typed) -> None:
    write_runs(tmp_path / "runs", records())
    (tmp_path / "runs" / "0" / "record.json").write_text("{")
    begun = tmp_path / "runs" / "begun"
    begun.mkdir()
    record = fake_record("kd", 9, 70.0)
    (begun / "config.toml").write_text(tomli_w.dumps(record["config"] | {"id": record["cell"]}))
    code, out, err = typed("report", "runs", "--out", "here")
    assert code == 2
    assert out == "here/index.html\n"
    assert "record.json is left out" in err
    page = (tmp_path / "here" / "index.html").read_text()
    assert "1 file is damaged and left out" in page
    assert "runs/0/record.json is left out" in page
    assert "1 cell has started but not finished" in page
    assert "runs/begun: not finished" in page


def test_a_failure_leaves_the_earlier_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_runs(tmp_path / "runs", records()[:4])
    (tmp_path / "index.html").write_text("earlier")
    read = read_records(tmp_path / "runs")

    def fail(plot: object) -> None:
        raise OSError

    monkeypatch.setattr("kdbench.analysis.report.sections.draw", fail)
    with pytest.raises(OSError):  # noqa: PT011
        write_report(tmp_path / "runs", tmp_path, split(read), read)
    assert (tmp_path / "index.html").read_text() == "earlier"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index.html", "runs"]


@pytest.mark.usefixtures("quick")
def test_a_record_that_changes_meanwhile_is_named(tmp_path: Path) -> None:
    folders = write_runs(tmp_path / "runs", records()[:4])
    read = read_records(tmp_path / "runs")
    found = split(read)
    (folders[1] / "record.json").unlink()
    write_report(tmp_path / "runs", tmp_path / "out", found, read)
    assert "1/record.json changed while the report was written" in (tmp_path / "out" / "index.html").read_text()


def test_a_folder_without_records(tmp_path: Path, typed: Typed) -> None:
    (tmp_path / "empty").mkdir()
    code, _, err = typed("report", "empty")
    assert code == 2
    assert err.startswith("kdbench: no finished cells in empty")
    assert err.count("\n") == 1
    assert not (tmp_path / "report").exists()


def test_out_is_a_file(tmp_path: Path, typed: Typed) -> None:
    write_runs(tmp_path / "runs", records()[:4])
    (tmp_path / "taken").write_text("mine")
    assert typed("report", "runs", "--out", "taken") == (
        2, "", "kdbench: taken is a file: choose another folder with --out DIR\n"
    )  # fmt: skip
    assert (tmp_path / "taken").read_text() == "mine"
    code, _, err = typed("report", "runs", "--out", "taken/below")
    assert code == 2
    assert re.fullmatch(r"kdbench: cannot write taken/below: .*: choose another folder with --out DIR\n", err)


def test_out_that_cannot_be_made_is_told_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        write_report(tmp_path, tmp_path / "file" / "out", [], read_records(tmp_path))
