"""Folders of published results: complete, readable by every command, without this machine's names, and checked."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from fake_records import fake_record
from published_runs import contents, environment, finished, typed
from tracked_runs import EPOCHS, RULES, begin_cell, finish_cell, row, write_rows

from kdbench.analysis.publishing.folder import flaws, read_publication
from kdbench.analysis.publishing.making import publish
from kdbench.analysis.publishing.site import write_site
from kdbench.analysis.records import read_records
from kdbench.errors import UserError


def test_what_is_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    runs, out = tmp_path / "runs", tmp_path / "out"
    predictions = hashlib.sha256(b"as they were").hexdigest()
    folders = [finished(runs, "kd"), finished(runs, "ce"), finished(runs, "dkd", predictions=predictions)]
    (folders[2] / "predictions.npz").write_bytes(b"as they were")
    (folders[0] / "model.safetensors").write_bytes(b"large")
    running, _ = begin_cell(runs, "rkd")
    write_rows(running, [row(1)])
    assert typed(monkeypatch, "publish", runs, "--out", out, "--by", "A group <b>") == 0
    answer = capsys.readouterr().out
    assert answer.splitlines()[0] == f"{out}: 3 cells, 3 added"
    names = {"record.json", "config.toml", "metrics.jsonl"}
    expected = {f"records/{folder.relative_to(runs)}/{name}" for folder in folders for name in names}
    files = contents(out)
    assert files.keys() == expected | {"README.md", "published.json"}
    for folder in folders:
        for name in names:
            assert files[f"records/{folder.relative_to(runs)}/{name}"][0] == (folder / name).read_bytes()
    listed = json.loads((out / "published.json").read_text())
    assert listed["files"] == {
        name: hashlib.sha256(content).hexdigest() for name, (content, _) in files.items() if name != "published.json"
    }
    (machine,) = listed["hardware"]
    assert machine["device"] == "a device"
    assert machine["cells"] == 3
    assert machine["hours"] == round(3 * 20 / 3600, 3)
    readme = (out / "README.md").read_text()
    assert readme.startswith("# 3 cells of kdbench, published by A group \\<b>\n")
    assert "The records of 1 cell hold the SHA-256 of `predictions.npz`" in readme
    assert re.search(r"\| a device +\| +1 \| +Linux \| +2\.14\.1 ", readme)
    assert "| dkd" in readme
    for content, _ in files.values():
        assert str(tmp_path).encode() not in content
        assert str(Path.home()).encode() + b"/" not in content

    again = contents(out)
    assert typed(monkeypatch, "publish", runs, "--out", out) == 0
    assert contents(out) == again, "a repetition changed something"

    # Every command that reads records reads it, and finds what the runs have.
    assert read_records(out).problems == []
    assert sorted(read_records(out).frame["cell"]) == sorted(read_records(runs).frame["cell"])
    capsys.readouterr()
    shutil.rmtree(running)  # tables count the cells that are not finished
    for command in ("table", "leaderboard"):
        assert typed(monkeypatch, command, out, "--format", "csv") == 0
        published = capsys.readouterr().out
        assert typed(monkeypatch, command, runs, "--format", "csv") == 0
        assert published == capsys.readouterr().out
    assert typed(monkeypatch, "report", out, "--out", tmp_path / "report") == 0


def test_cells_are_added_and_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out"
    finished(tmp_path / "a", "kd")
    finished(tmp_path / "b", "kd", weights="1" * 64)
    finished(tmp_path / "b", "dkd", environment=environment(dirty=True))
    assert publish(tmp_path / "a", out, "us").added == 1
    assert "01234567+" not in (out / "README.md").read_text()
    second = publish(tmp_path / "b", out, None)
    assert (second.cells, second.added, second.replaced) == (2, 1, 1)
    assert read_publication(out).publisher == "us"
    readme = (out / "README.md").read_text()
    assert re.search(r"\| +01234567\+ \| +1 ", readme), "a checkout with changes is not marked"
    assert re.search(r"\| +01234567 +\| +1 ", readme)
    assert list(flaws(out)) == []


def test_what_is_not_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs, out = tmp_path / "runs", tmp_path / "out"
    good = finished(runs, "ce")
    finished(runs, "rkd", environment=environment(system=f"Linux of {socket.gethostname()}"))
    finished(runs, "sp", settings_source=f"{runs.resolve()}/mine.toml")
    damaged = finished(runs, "dkd")
    (damaged / "record.json").write_text((damaged / "record.json").read_text().replace("0.125", "0.25"))
    other = finished(runs, "crd", predictions="0" * 64)
    (other / "predictions.npz").write_bytes(b"others")
    finished(runs, "mine", 1, method_source="file mine.py sha256:aa")
    finished(runs, "mine", 2, method_source="file mine.py sha256:bb")
    assert typed(monkeypatch, "publish", runs, "--out", out) == 2
    written = capsys.readouterr()
    assert written.out.splitlines()[0] == f"{out}: 1 cell, 1 added"
    assert [path.parent.name for path in out.rglob("record.json")] == [good.name]
    lines = written.err.splitlines()
    assert len(lines) == 5, lines
    for method, reason in {
        "rkd": f"is left out: its record.json holds the host name {socket.gethostname()}",
        "sp": f"is left out: its record.json holds the folder of runs {runs.resolve()}",
        "dkd": "is left out: it is damaged: its fields do not match its hash",
        "crd": "is left out: predictions.npz beside it is not the file that it was written with",
    }.items():
        (line,) = (line for line in lines if f"/{method}/seed1" in line)
        assert line.endswith(reason)
    assert lines[-1] == (
        "kdbench: records of mine are left out: their code differs under VERSION 1; publish those of one code"
    )
    assert socket.gethostname().encode() not in b"".join(content for content, _ in contents(out).values())


@pytest.mark.parametrize(
    ("folder", "changes"),
    [
        ("methods", {"method_source": "file mine.py sha256:aa"}),
        ("networks", {"student_source": "file mine.py sha256:aa"}),
    ],
)
def test_code_that_has_changed_since(
    folder: str, changes: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "own" / folder / "mine.py"
    file.parent.mkdir(parents=True)
    file.write_text("")
    monkeypatch.setenv("KDBENCH_OWN", str(tmp_path / "own"))
    if folder == "methods":
        finished(tmp_path / "runs", "mine", **changes)
    else:
        cell, _ = begin_cell(tmp_path / "runs")
        record = fake_record("kd", 1, 50.0 + EPOCHS, protocol=RULES, student="mine", loss={"ce": 0.125}, **changes)
        finish_cell(cell, record)
    with pytest.raises(UserError, match=r"nothing to publish: 1 left out; .*mine.py has changed since"):
        publish(tmp_path / "runs", tmp_path / "out", None)
    assert not (tmp_path / "out").exists()


def test_folders_that_are_refused(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    begin_cell(runs, "kd")
    with pytest.raises(UserError, match="no finished cells"):
        publish(runs, tmp_path / "out", None)
    finished(runs, "ce")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("x")
    for out, message in (
        (tmp_path / "full", "has other files and no published.json"),
        (runs / "out", "lies in"),
        (tmp_path / "full" / "mine.txt", "is a file"),
    ):
        with pytest.raises(UserError, match=message):
            publish(runs, out, None)
    with pytest.raises(UserError, match="does not exist"):
        publish(tmp_path / "none", tmp_path / "out", None)


def damage(out: Path, kind: str) -> None:
    """Change a published folder."""
    record = next(out.rglob("record.json"))
    values = json.loads((out / "published.json").read_text())
    match kind:
        case "changed":
            record.write_text(record.read_text().replace("a device", "b device"))
        case "missing":
            (record.parent / "metrics.jsonl").unlink()
        case "not listed":
            (out / "records/more").mkdir()
            (out / "records/more/record.json").write_text(record.read_text())
        case "leads out":
            (out / "published.json").write_text(json.dumps(values | {"files": {"records/../../x": "0"}}))
        case "no list":
            (out / "published.json").write_text("{")
        case "later":
            (out / "published.json").write_text(json.dumps(values | {"format": 2}))
        case "other types":
            (out / "published.json").write_text(json.dumps(values | {"files": [1], "hardware": 3}))


@pytest.mark.parametrize("kind", ["changed", "missing", "not listed", "leads out", "no list", "later", "other types"])
def test_a_folder_that_is_not_whole(kind: str, tmp_path: Path) -> None:
    """It is named by whoever reads it, in a line."""
    out = tmp_path / "out"
    finished(tmp_path / "runs", "kd")
    publish(tmp_path / "runs", out, None)
    assert list(flaws(out)) == []
    damage(out, kind)
    assert flaws(out)
    if kind != "not listed":  # reading stops at two records of one cell
        assert read_records(out).problems
    with pytest.raises(UserError, match=str(out)):
        write_site([out], tmp_path / "site")
    with pytest.raises(UserError, match=str(out)):
        publish(tmp_path / "runs", out, None)
    assert not (tmp_path / "site").exists()


def test_no_torch(tmp_path: Path) -> None:
    """Commands over records answer without it."""
    finished(tmp_path / "runs", "kd")
    code = (
        "import sys; from pathlib import Path; from kdbench.analysis.publishing.making import publish; "
        "from kdbench.analysis.publishing import site; from kdbench.cli import publish as _, track; "
        "from kdbench.analysis.tracking import sending; "
        "publish(Path('runs'), Path('out'), None); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
