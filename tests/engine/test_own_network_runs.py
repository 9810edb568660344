"""Cells with networks of the user's: as student and teacher, with their VERSION and the hash of their code."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from cells import Typed
from own_files import write_network

from kdbench.engine.run import Run
from kdbench.engine.run_state import save
from kdbench.engine.session import Session
from kdbench.errors import UserError
from kdbench.experiment import own_folders


@pytest.fixture
def small(tiny_npz: Path) -> list[str]:
    return ["--protocol", "digits-demo-v1", "--data", f"npz:{tiny_npz}", "--epochs", "1"]


def records(method: str) -> list[dict[str, Any]]:
    paths = sorted(Path("runs").glob(f"**/{method}/seed*/record.json"), key=lambda path: path.stat().st_mtime_ns)
    return [json.loads(path.read_bytes()) for path in paths]


def test_a_network_is_student_and_teacher_and_its_code_is_told_apart(typed: Typed, small: list[str]) -> None:
    own, file = ("--own", "own"), Path("own/networks/mine.py").absolute()
    write_network(Path("own"))
    teacher = [*own, "teacher", "train", *small, "--network", "Mine"]
    code, out, err = typed(*teacher)
    assert code == 0, out + err
    words = [*own, "train", *small, "--teacher", "mine", "--student", "mine", "--method", "ce", "--method", "kd"]
    code, out, err = typed(*words)
    assert code == 0, out + err
    (record,) = records("kd")
    source = record["student_source"]
    assert re.fullmatch(r"file mine\.py sha256:[0-9a-f]{8}", source)
    assert record["teacher"]["source"] == source
    assert (record["student"], record["config"]["student_version"]) == ("mine", 1)
    # Other code under one VERSION: finished cells stay, which is said once; new ones are another column.
    write_network(Path("own"), forward="x = 2 * x")
    code, out, _ = typed(*words)
    assert (code, out.count("already finished")) == (0, 2)
    assert out.count(f"{file} has changed since 2 records were made: raise its VERSION to run their cells again") == 1
    (card,) = Path("runs").glob("**/teacher.json")
    code, out, err = typed(*own, "train", *small, "--student", "mine", "--method", "ce", "--seed", "2")
    assert code == 0, out + err
    for folder in (card.parent, next(Path("runs").glob("**/kd/seed1-*"))):
        code, _, err = typed(*own, "eval", str(folder), *small[2:4])
        assert (code, err.count("\n")) == (2, 1)
        assert re.search(r"mine\.py has changed since .* was trained: put it back", err)
    code, out, err = typed("table", "runs")
    assert code == 0, err
    assert {f"code {source[-8:]}", f"code {records('ce')[-1]['student_source'][-8:]}"} <= set(
        re.findall(r"code \w+", out)
    )
    # Another VERSION is another cell, and no network of the teacher's weights.
    write_network(Path("own"), version=2)
    code, _, err = typed(*words)
    assert (code, err.count("\n")) == (2, 1)
    assert f"network mine has version 2 now: mine@{card.parent.name.rpartition('-')[2]} is of version 1" in err
    assert typed(*teacher)[0] == 0
    code, out, err = typed(*words)
    assert (code, out.count("already finished")) == (0, 0), out + err
    assert [record["config"]["student_version"] for record in records("kd")] == [1, 2]
    code, out, err = typed("table", "runs", "--format", "csv")
    assert code == 0, err
    assert {"mine (version 2)", "mine (version 1, code"} <= {
        *re.findall(r"mine \(version 2\)|mine \(version 1, code", out)
    }
    code, out, _ = typed(*own, "cache", "list")
    assert code == 0


def test_another_version_is_another_cell_and_other_networks_have_none(
    tiny_npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(own_folders.OWN, str(tmp_path / "own"))
    write_network(tmp_path / "own")
    session = Session.open("digits-demo-v1", data=f"npz:{tiny_npz}", epochs=1, runs=tmp_path / "runs")

    def cell(student: str) -> Any:
        return session.cell(method="ce", student=student, seed=1)

    first = cell("mine")
    write_network(tmp_path / "own", version=2)
    assert first.id != cell("mine").id
    assert first.identity() == cell("mine").identity() | {"student_version": 1}
    assert "student_version" not in cell("resnet8").identity()
    begun = []

    def save_and_stop(run: Run, _: object) -> None:
        begun.append(run)
        save(run)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Run, "end_epoch", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            session.run(cell("mine"))
    write_network(tmp_path / "own", version=2, forward="x = 2 * x")
    with pytest.raises(
        UserError, match=r"mine\.py has changed since .*none-mine/ce/seed1-\w+ was begun: raise VERSION"
    ):
        session.run(cell("mine"))
    write_network(tmp_path / "own", version=2)
    assert session.run(cell("mine"))["student_source"].startswith("file mine.py sha256:")


def test_new_and_list_know_networks_and_protocols(typed: Typed) -> None:
    code, out, err = typed("new", "network", "my_net", "--dir", "some where")
    assert (code, err) == (0, "")
    assert out.splitlines()[2] == "  kdbench --own 'some where' validate network my_net"
    text = Path("some where/networks/my_net.py").read_text()
    assert "class MyNet(nn.Module):" in text
    assert not re.search("mynetwork", text, flags=re.IGNORECASE)
    code, _, err = typed("new", "network", "my_net", "--dir", "some where")
    assert (code, err.count("\n")) == (2, 1)
    assert "my_net.py exists: choose another name" in err
    own = ("--own", "some where")
    code, out, err = typed(*own, "new", "protocol", "mine-v1")
    assert (code, err) == (0, "")
    assert out.splitlines()[0].endswith("some where/protocols/mine-v1.toml")
    assert out.splitlines()[2] == "  kdbench --own 'some where' validate protocol mine-v1"
    Path("some where/networks/broken.py").write_text("import nothing_of_this_name\n")
    code, out, _ = typed(*own, "list", "networks")
    assert code == 0
    place = Path("some where/networks/my_net.py").absolute()
    assert re.search(rf"^my_net +1 +{re.escape(str(place))}$", out, flags=re.MULTILINE)
    assert re.search(r"^broken +broken +/.*broken\.py$", out, flags=re.MULTILINE)
    assert re.search(r"^broken: network broken cannot be used: .*, line 1: ModuleNotFound", out, flags=re.MULTILINE)
    assert "broken" not in typed("list", "networks")[1]


def test_a_protocol_is_checked_key_by_key_and_printed_whole(typed: Typed) -> None:
    assert typed("new", "protocol", "mine-v1", "--dir", "own")[0] == 0
    file, words = Path("own/protocols/mine-v1.toml"), ("--own", "own", "validate", "protocol", "Mine_v1")
    code, out, err = typed(*words)
    assert (code, err) == (0, "")
    rows = {line.split()[0]: line.split()[-1] for line in out.splitlines() if line.strip()}
    assert rows["learning_rate"] == "mine-v1.toml"
    assert (rows["momentum"], rows["mean"], rows["label_smoothing"]) == ("digits-demo-v2.toml",) * 2 + ("default",)
    assert re.search(r"^learning_rate +0\.1 ", out, flags=re.MULTILINE)
    identity = re.search(r"^identity: ([0-9a-f]{16}), of the name and all rules$", out, flags=re.MULTILINE)
    assert identity
    # What only looks different is the same rules; a rule that changes is another identity.
    file.write_text(file.read_text() + "momentum = 0.9\n")
    assert identity[1] in typed(*words)[1]
    file.write_text(file.read_text().replace("= 0.9", "= 0.8"))
    assert identity[1] not in typed(*words)[1]
    for old, new, message in (
        ("momentum", "momentun", r"\[optimizer\]: unknown key 'momentun'"),
        ("= 0.8", "= 2", r"\[optimizer\]: momentum must be"),
        ("version = 1", 'version = 1\nbaseline = "none_such"', r"unknown method 'none_such'"),
    ):
        before = file.read_text()
        file.write_text(before.replace(old, new))
        code, _, err = typed(*words)
        assert (code, err.count("\n")) == (2, 1), err
        assert re.search(message, err), err
        file.write_text(before)
