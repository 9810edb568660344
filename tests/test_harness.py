"""The shape of the code base: what may know what, and what a newcomer is told."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

import kdbench
import kdbench.methods
from kdbench.registry import method_names
from kdbench.show import method_page

ROOT = Path(__file__).parent.parent


def test_no_method_is_named_in_the_harness() -> None:
    """No name and no string of kdbench's Python files is a method's name; some of them are words in sentences."""
    names = set(method_names())
    root = Path(kdbench.__file__).parent
    files = [p for p in root.rglob("*.py") if "methods" not in p.relative_to(root).parts]
    assert len(files) > 20
    for file in files:
        for token in tokenize.generate_tokens(io.StringIO(file.read_text()).readline):
            word = token.string.strip("rbfu\"'").lower() if token.type == tokenize.STRING else token.string
            assert word not in names, f"{file.name}:{token.start[0]} names the method {word}"


def test_the_command_line_answers_without_torch() -> None:
    code = "import sys, kdbench.cli; sys.exit('torch' in sys.modules or 'pandas' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.checkout
def test_methods_cannot_be_imported_from_the_checkout_by_accident() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import methods"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert "ImportError" in done.stderr
    assert "pip install -e ." in done.stderr


@pytest.mark.checkout
def test_the_readme_shows_both_commands_and_every_method() -> None:
    readme = (ROOT / "README.md").read_text()
    assert "\npip install . && kdbench demo" in readme
    assert "\npip install -e '.[dev]' && pytest" in readme
    for name in method_names():
        assert f"`{name}`" in readme


@pytest.mark.checkout
def test_the_readmes_own_method_trains(tiny_npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One file is enough."""
    (code,) = re.findall(r'```python\n(""".*?)```', (ROOT / "README.md").read_text(), flags=re.DOTALL)
    (tmp_path / "mine.py").write_text(code)
    monkeypatch.setattr(kdbench.methods, "__path__", [*kdbench.methods.__path__, str(tmp_path)])
    session = kdbench.Session.open("digits-demo-v1", data=f"npz:{tiny_npz}", epochs=1, runs=tmp_path / "runs")
    session.train_teacher("resnet8")
    record = session.run(session.cell(method="mine", teacher="resnet8", student="resnet8", seed=1))
    assert record["loss"].keys() == {"ce", "mine"}
    assert "weight = 0.1: Weight of the squared error." in method_page("mine")
