"""The examples run to their ends, and leave and print what they say."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest
import tomli_w
from fake_records import fake_record, write_records
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parent.parent / "examples"
pytestmark = pytest.mark.checkout


def run(folder: Path, *words: object) -> str:
    """Type a command in a folder, as a user whose environment is this one; returns what it prints."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        [str(word) for word in words],
        cwd=folder,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder in which compare.py was run, and what it printed."""
    folder = tmp_path_factory.mktemp("compared")
    return folder, run(folder, sys.executable, EXAMPLES / "compare.py", "--epochs", 1, "--seeds", 2)


def test_comparison_from_python(compared: tuple[Path, str]) -> None:
    _, printed = compared
    for method in ("ce", "kd", "dkd", "crd"):
        assert f"{method}, seed 2: " in printed
        assert sum(line.startswith(f"{method} ") for line in printed.splitlines()) == 1  # its row in the table
    assert "digits-demo-v2, with epochs=1: wrn_16_2 (" in printed
    assert "digits-demo-v2, with epochs=1: 1 pair" in printed  # of the leaderboard


def test_own_method_network_and_images(tmp_path: Path) -> None:
    printed = run(tmp_path, "bash", EXAMPLES / "own_method" / "run.sh", "--epochs", 1)
    assert len([*tmp_path.glob("images/*/*/*.png")]) == 1797  # all of scikit-learn's digits
    table = printed[printed.index("digit-images-v1, with ") :]
    assert " > smallnet" in table.splitlines()[0]
    assert {"ce", "kd", "sure"} <= {line.partition(" ")[0] for line in table.splitlines()}


def test_grid_of_a_paper(tmp_path: Path) -> None:
    grid = tomllib.loads((EXAMPLES / "paper_grid" / "paper.toml").read_text(encoding="utf-8"))
    small = tmp_path / "small.toml"
    small.write_text(tomli_w.dumps(grid | {"methods": ["ce", "kd", "dkd"], "seeds": 1, "epochs": 1}), encoding="utf-8")
    write_records(tmp_path / "runs", [fake_record("ce", 1, 80.0, teacher=None)])  # of another example
    printed = run(tmp_path, "bash", EXAMPLES / "paper_grid" / "run.sh", small)
    assert printed.count("done    ") == 6  # cells
    assert "digits-demo-v2, with epochs=1: 2 pairs" in printed  # of the leaderboard
    table = (tmp_path / "table.tex").read_text(encoding="utf-8")
    assert r"\caption{Top-1 of students on digits" in table
    assert r"\label{tab:digits}" in table
    assert "WRN-16-2" in table
    figures = sorted(path.stem.rpartition("-")[2] for path in (tmp_path / "figures").glob("*.pdf"))
    assert figures == ["cost", "differences", "ranks"]


def test_notebook_of_records(compared: tuple[Path, str]) -> None:
    notebook = nbformat.read(EXAMPLES / "records.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "store it without outputs"
    NotebookClient(notebook, kernel_name="python3", resources={"metadata": {"path": str(compared[0])}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    tables = [output.data["text/plain"] for output in outputs if output.output_type == "execute_result"]
    means, differences = tables[1].split(), tables[2].split()
    assert means[:3] == ["mean", "std", "count"]
    assert means[4:].count("2") == 4  # seeds of each method
    assert differences[:4] == ["method", "crd", "dkd", "kd"]
    assert "image/png" in outputs[-1].data
