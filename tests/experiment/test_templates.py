"""The start of a method that ``kdbench new`` writes, and what is listed of methods."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from cells import Typed
from own_files import write_own
from test_user_methods import ROOT

from kdbench.cli.catalogue import paper_line
from kdbench.cli.method_page import method_page
from kdbench.experiment import own_folders
from kdbench.experiment.registry import load_method, method_names


def test_new_writes_a_start_and_overwrites_nothing(typed: Typed) -> None:
    code, out, err = typed("new", "my_own2", "--dir", "some where")
    assert (code, err) == (0, "")
    folder = Path("some where/methods")
    assert sorted(path.name for path in folder.iterdir()) == ["my_own2.py", "my_own2.toml"]
    assert out.splitlines()[0] == "wrote some where/methods/my_own2.py"
    text = (folder / "my_own2.py").read_text()
    assert "class MyOwn2(Method):" in text
    assert not re.search("mymethod", text, flags=re.IGNORECASE)
    assert out.splitlines()[-3] == "  kdbench --own 'some where' validate my_own2"
    assert out.splitlines()[-1].endswith("--method ce --method kd --method my_own2")
    code, _, err = typed("new", "my_own2", "--dir", "some where")
    assert (code, err.count("\n")) == (2, 1)
    assert "exists: choose another name" in err
    assert (folder / "my_own2.py").read_text() == text
    recipe = (folder / "my_own2.toml").read_text()
    (folder / "my_own2.toml").unlink()  # as a command that was killed between the two leaves it
    assert typed("new", "my_own2", "--dir", "some where")[0] == 0
    assert [path.read_text() for path in sorted(folder.iterdir())] == [text, recipe]
    (folder / "my_own2.toml").unlink()
    (folder / "my_own2.py").write_text(f"{text}\n# mine\n")
    assert "my_own2.py exists" in typed("new", "my_own2", "--dir", "some where")[2]
    (folder / "my_own2.toml").write_text(recipe)
    (folder / "my_own2.py").unlink()
    assert typed("new", "my_own2", "--dir", "some where")[0] == 2  # the recipe file is still there
    assert typed("new", "my_own2")[0] == 0
    for wrong, said in {
        "../x": "cannot be the name of a method",
        "X": "cannot be the name",
        "_x": "cannot be the name",
        "kd": "the name is taken by method kd (kdbench ",
        "re_view_kd": "the name is taken by method reviewkd",
    }.items():
        code, _, err = typed("new", wrong)
        assert (code, err.count("\n")) == (2, 1)
        assert said in err


def test_a_start_among_kdbenchs_methods_needs_no_option(
    typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a checkout, in which --own would find each of kdbench's methods a second time."""
    files = SimpleNamespace(files=lambda package: tmp_path / package.rpartition(".")[2])
    monkeypatch.setattr(own_folders, "resources", files)
    code, out, err = typed("new", "mine", "--dir", tmp_path)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[-3] == "  kdbench validate mine"
    assert not [line for line in lines if "--own" in line]


@pytest.mark.checkout
def test_a_checkout_may_hold_own_networks(typed: Typed) -> None:
    code, out, err = typed("--own", ROOT, "list", "methods")
    assert (code, err) == (0, "")
    assert out == typed("list", "methods")[1]


@pytest.mark.checkout
@pytest.mark.skipif(not shutil.which("ruff"), reason="needs ruff")
def test_the_start_keeps_the_house_rules(typed: Typed) -> None:
    assert typed("new", "a_longer_name")[0] == 0
    for words in (["check", "--ignore", "CPY,INP"], ["format", "--check"]):
        done = subprocess.run(
            ["ruff", words[0], "--config", str(ROOT / "pyproject.toml"), *words[1:], "methods/a_longer_name.py"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_methods_are_listed_with_paper_needs_and_cost(typed: Typed) -> None:
    write_own(Path("own"))
    code, out, err = typed("--methods", "own", "list", "methods", "--pair", "ResNet20>MobileNetV2")
    assert code == 0, err
    lines = [re.split(r" {2,}", line) for line in out.splitlines()]
    rows = {line[1]: [line[0], *line[2:]] for line in lines if len(line) > 1}
    paper = "Mine: Logits by Their Mean Squared Error (ICML)"
    # A linear layer from 1280 features to 100 classes.
    assert rows["mine"] == ["", "2024", "logits", "1", f"{1281 * 100:,}", paper, "file mine.py"]
    assert rows["kd"][:5] == ["logits", "2014", "logits", "1", "0"]
    assert rows["ce"] == ["none", "nothing", "1", "0", "the student alone, trained by cross entropy"]
    assert rows["kdsvd"][4] == "unsupported"
    assert re.search(r"^unsupported, kdsvd: KDSVD compares stages with equally many channels", out, flags=re.MULTILINE)
    code, _, err = typed("list", "networks", "--pair", "resnet20>resnet8")
    assert (code, err.count("\n")) == (2, 1)
    code, out, _ = typed("--methods", "own", "show", "mine")
    assert code == 0
    assert f"\nFrom: {Path('own/mine.py').absolute()}\nRecords say: file mine.py sha256:" in out


def test_every_method_names_its_paper() -> None:
    papers = {name: load_method(name).PAPER for name in method_names()}
    assert [name for name, paper in papers.items() if paper is None] == ["ce"]
    assert paper_line("srrl") == "Knowledge Distillation via Softmax Regression Representation Learning (ICLR)"
    for paper in filter(None, papers.values()):
        assert re.fullmatch(r"\d{4}\.\d{4,5}", paper.arxiv or "0000.0000")
        assert paper.authors.count(", ") >= 1


def test_weights_that_are_only_counted_are_not_drawn() -> None:
    """Those of SemCKD's regressors would be gigabytes for wide networks; VID has convolutions without bias alone."""
    method_page("vid")  # builds the networks of the pairs
    before = torch.random.get_rng_state()
    method_page("vid")
    assert torch.equal(torch.random.get_rng_state(), before)
