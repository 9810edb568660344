"""The shape of the code base: what may know what."""

from __future__ import annotations

import io
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

import kdbench
from kdbench.experiment.registry import method_names

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
