"""Methods of users: files in their folders and installed packages, as good as kdbench's own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from cells import Typed
from own_files import install, write_own

import kdbench
from kdbench.engine.run import Run
from kdbench.engine.run_state import save
from kdbench.errors import UserError
from kdbench.experiment import own_folders
from kdbench.experiment.registry import load_method, method_name, method_names, method_source, method_sources
from kdbench.grid.code_copy import copy_code

ROOT = Path(__file__).parents[2]


@pytest.fixture
def small(tiny_npz: Path) -> list[str]:
    return ["--protocol", "digits-demo-v1", "--data", f"npz:{tiny_npz}", "--epochs", "1"]


def test_an_own_file_trains_beside_ours(typed: Typed, small: list[str]) -> None:
    write_own(Path("own"))
    code, _, err = typed("teacher", "train", *small, "--network", "resnet8")
    assert code == 0, err
    words = ["train", *small, "--teacher", "resnet8", "--student", "resnet8", "--method", "MINE", "--method", "kd"]
    code, _, err = typed(*words)
    assert (code, err.count("\n")) == (2, 1)
    assert "unknown method 'MINE'" in err
    code, out, err = typed("--methods", "own", *words)
    assert code == 0, out + err
    sources = {}
    for path in Path("runs").glob("**/seed*/record.json"):
        record = json.loads(path.read_bytes())
        sources[record["method"]] = record["method_source"]
    assert re.fullmatch(r"file mine\.py sha256:[0-9a-f]{8}", sources["mine"])
    assert sources["kd"] == sources["ce"] == method_source("kd").origin
    assert re.fullmatch(r"kdbench \d+\.\d+\.\d+", sources["kd"])
    # A finished record of other code stays, and this is said once.
    code, out, _ = typed("--methods", "own", *words)
    assert (code, out.count("already finished"), "changed" in out) == (0, 2, False)
    write_own(Path("own"), loss="mine = 2 * mine")
    code, out, _ = typed("--methods", "own", *words)
    said = f"{Path('own/mine.py').absolute()} has changed since this record was made: raise its VERSION"
    assert (code, out.count("already finished"), out.count(said)) == (0, 2, 1)
    code, out, err = typed("table", "runs")
    assert code == 0, err
    assert re.search(r"^mine ", out, flags=re.MULTILINE)


def test_a_state_of_other_code_is_refused(own: Path, tiny_npz: Path, tmp_path: Path) -> None:
    write_own(own)
    session = kdbench.Session.open("digits-demo-v1", data=f"npz:{tiny_npz}", epochs=1, runs=tmp_path / "runs")
    session.train_teacher("resnet8")
    cell = session.cell(method="mine", student="resnet8", teacher="resnet8", seed=1)
    begun: list[Run] = []

    def save_and_stop(run: Run, _: object) -> None:
        begun.append(run)
        save(run)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Run, "end_epoch", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            session.run(cell)
    write_own(own, loss="mine = 2 * mine")
    del sys.modules["kdbench.experiment.user_methods.mine"]
    with pytest.raises(UserError, match=r"mine\.py has changed since .*mine/seed1-\w+ was begun: raise VERSION in it"):
        session.run(cell)
    write_own(own)
    del sys.modules["kdbench.experiment.user_methods.mine"]
    assert session.run(cell)["method_source"] == method_source("mine").text


def test_folders_come_from_the_variable_and_the_option(typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        write_own(Path(f"own{number}"), f"mine{number}")
    monkeypatch.setenv(own_folders.METHODS, f"own0{os.pathsep}{os.pathsep}own0")
    assert {"mine0"} == set(method_names()) & {"mine0", "mine1", "mine2"}
    assert method_name("Mine_0") == "mine0"
    code, out, err = typed("--methods", "own1", "--methods", "own2", "list", "methods")
    assert code == 0, err
    assert re.findall(r"^ +(mine\d) .* file mine\d\.py *$", out, flags=re.MULTILINE) == ["mine0", "mine1", "mine2"]
    monkeypatch.setenv(own_folders.METHODS, "nowhere")
    code, _, err = typed("list", "methods")
    assert (code, err.count("\n")) == (2, 1)
    assert f"folder {Path('nowhere').absolute()} does not exist: --methods and {own_folders.METHODS}" in err


def test_own_methods_leave_the_search_path_alone(own: Path) -> None:
    path = list(sys.path)
    (own / "_shared.py").write_text("FACTOR = 0.5\n")
    file = write_own(own)
    file.write_text(file.read_text().replace("import random\n", "from kdbench.methods.kd import kl_per_image\n"))
    file.write_text(f"{file.read_text()}\nfrom ._shared import FACTOR\n")
    assert load_method("mine").__module__ == "kdbench.experiment.user_methods.mine"
    assert sys.path == path
    assert "mine" not in sys.modules
    before = method_source("mine").text
    (own / "_shared.py").write_text("FACTOR = 0.25\n")
    del sys.modules["kdbench.experiment.user_methods.mine"]
    assert method_source("mine").text != before


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (["own/kd.py"], r"own/kd\.py has the name of kdbench's own, kd of kdbench\.methods\.kd"),
        (["own/k_d.py"], r"k_d of .*own/k_d\.py has the name of kdbench's own, kd "),
        (["own/mine.py", "other/mine.py"], r"other/mine\.py has the name of another, mine of .*own/mine\.py: rename"),
        (["own/_a.py", "other/_a.py"], r"other/_a\.py and .*own/_a\.py have one name: rename"),
    ],
)
def test_a_name_is_there_once(files: list[str], said: str, typed: Typed) -> None:
    for name in files:
        write_own(Path(name).parent, Path(name).stem)
    folders = dict.fromkeys(str(Path(name).parent) for name in files)
    code, _, err = typed(*(word for name in folders for word in ("--methods", name)), "list", "methods")
    assert (code, err.count("\n")) == (2, 1)
    assert re.search(said, err), err


BROKEN = {
    "syntax.py": (
        "def loss(:\n",
        r"method syntax cannot be used: .*own/syntax\.py, line 1: SyntaxError: invalid syntax",
    ),
    "missing.py": ("\nimport nowhere_to_be_found\n", r"missing\.py, line 2: ModuleNotFoundError: No module named"),
    "exits.py": ("import sys\nsys.exit(3)\n", r"exits\.py, line 2: SystemExit: 3; fix that"),
    "empty.py": ("", r"empty\.py: it defines no class that inherits from kdbench\.method\.Method: write one"),
    "plain.py": ("METHOD = dict\n", r"plain\.py: its METHOD is <class 'dict'>: it must be a class that inherits from"),
    "several.py": (
        "from kdbench.methods.kd import KD\nclass One(KD): ...\nclass Two(KD): ...\n",
        r"several\.py: it defines the methods One, Two: end it with METHOD = Two, or move all but one elsewhere",
    ),
    "none.py": ("METHOD = None\n", r"none\.py: its METHOD is None: it must be a class"),
    "bare.py": (
        "from kdbench.method import Method\nclass Bare(Method):\n    pass\n",
        r"bare\.py: Bare has no loss: define it",
    ),
    "blank.py": (
        "from kdbench.method import Method\nclass Blank(Method):\n    def loss(self, *_): ...\nMETHOD = Blank\n",
        r"blank\.py: Blank has no FAMILY and no READS: set it in the class",
    ),
    "old.py": (
        "from kdbench.method import Method\nclass Old(Method):\n    FAMILY = 'logits'\n"
        "    teacher_reads = frozenset()\n    def loss(self, *_): ...\nMETHOD = Old\n",
        r"old\.py: Old has teacher_reads, which kdbench does not call any more: write READS = Reads\(student=",
    ),
    "helpers.py": (
        "from kdbench.methods.ce import check_settings\n",
        r"helpers\.py, line 1: ImportError: .*; import losses from kdbench\.functional instead, and weight",
    ),
    "Upper-Case.py": ("", r"Upper-Case\.py: the name of a method is a lower-case letter, then .*; rename it"),
}


def test_a_broken_file_is_one_clear_line_and_breaks_nothing_else(typed: Typed, small: list[str]) -> None:
    write_own(Path("own"))
    for name, (text, _) in BROKEN.items():
        Path("own", name).write_text(text)
    code, out, err = typed("--methods", "own", "list", "methods")
    assert (code, err) == (0, "")
    assert len(re.findall(r" file [\w-]+\.py *$", out.partition("\nbroken ")[2], flags=re.MULTILINE)) == len(BROKEN)
    for name, (_, said) in BROKEN.items():
        assert re.search(f"^broken: .*{said}", out, flags=re.MULTILINE), name
        train = ["train", *small, "--student", "resnet8", "--method"]
        for words in (["show"], train):
            code, _, err = typed("--methods", "own", *words, Path(name).stem)
            assert (code, err.count("\n")) == (2, 1), err
            assert re.search(said, err), err
    for words in (["show", "mine"], ["show", "kd"], ["list", "networks"]):
        assert typed("--methods", "own", *words)[0] == 0


def test_an_installed_package_brings_methods(typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = tmp_path / "site"
    site.mkdir()
    install(site, "kd_of_others", "theirs")
    monkeypatch.syspath_prepend(str(site))
    assert re.fullmatch(r"package kd_of_others 1\.2 sha256:[0-9a-f]{8}", method_source("theirs").text)
    assert method_source("theirs").recipe_file == site / "kd_of_others" / "theirs.toml"
    code, out, err = typed("show", "theirs")
    assert code == 0, err
    assert "\nFrom: kd_of_others.theirs of package kd_of_others 1.2\n" in out
    install(site, "kd_of_more", "theirs")
    monkeypatch.syspath_prepend(str(site))
    said = r"theirs of kd_of_\w+\.theirs of package kd_of_\w+ 1\.2 has the name of another"
    with pytest.raises(UserError, match=said):
        method_sources()


def test_a_submission_takes_a_copy_of_own_methods(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_own(own, recipe="# none\n")
    (own / "_shared.py").write_text("")
    (own / "runs").mkdir()
    write_own(tmp_path / "o t'her", "second")
    monkeypatch.setenv(own_folders.METHODS, f"{own}{os.pathsep}{tmp_path / chr(111)} t'her")
    lines = copy_code(tmp_path / "submission")
    copies = [tmp_path / "submission" / "code" / "kdbench_methods" / number for number in "01"]
    assert sorted(path.name for path in copies[0].iterdir()) == ["_shared.py", "mine.py", "mine.toml"]
    assert [path.name for path in copies[1].iterdir()] == ["second.py"]
    shell = "\n".join([*lines, f'printf %s "${own_folders.METHODS}"'])
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=True)
    assert done.stdout == os.pathsep.join(map(str, copies))
    monkeypatch.delenv(own_folders.METHODS)
    assert own_folders.METHODS not in "\n".join(copy_code(tmp_path / "another"))


def test_a_grid_runs_own_methods_from_the_copy(typed: Typed, tiny_npz: Path) -> None:
    """Settings of an own class, too, find their way into the worker's process."""
    code, out, err = typed("new", "mine", "--dir", "own")
    assert code == 0, err
    Path("grid.toml").write_text(
        f'protocol = "digits-demo-v1"\npairs = ["resnet8>resnet8"]\nmethods = ["Mine"]\nseeds = 1\nepochs = 1\n'
        f'data = "npz:{tiny_npz}"\n[method.mine]\ndirection_weight = 2.0\n'
    )
    code, out, err = typed("--own", "own", "grid", "run", "grid.toml")
    assert code == 0, out + err
    (path,) = Path("runs").glob("**/mine/*/record.json")
    record = json.loads(path.read_bytes())
    assert (record["method"], record["settings_chosen"]) == ("mine", {"direction_weight": 2.0})
    Path("own/methods/mine.py").write_text(Path("own/methods/mine.py").read_text() + "\n# changed\n")
    code, out, err = typed("--own", "own", "grid", "status", "grid.toml")
    assert (code, out.count("has changed since this record was made")) == (0, 1)


@pytest.mark.parametrize("stray", [b"\xe9", b"\xed\xa0\x80"])
def test_a_comment_that_is_not_utf_8_is_no_traceback(stray: bytes, typed: Typed) -> None:
    """Some versions of Python import such a file; what reads its text for descriptions does not."""
    file = write_own(Path("own"), more="class Config(Method.Config):\n    x: float = 1.0  # STRAY\n    '''An x.'''\n")
    file.write_bytes(file.read_bytes().replace(b"STRAY", stray))
    code, out, err = typed("--methods", "own", "show", "mine")
    assert (code, "x = 1.0" in out) == (0, True) or (code, err.count("\n")) == (2, 1), err
    assert "unexpected" not in err
