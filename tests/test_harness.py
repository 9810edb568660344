"""The shape of the code base: what may know what, and what a newcomer is told."""

from __future__ import annotations

import io
import re
import shlex
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest
from cells import Typed

import kdbench
from kdbench.cli.options import DEMO
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


@pytest.mark.checkout
def test_the_readme_shows_both_commands() -> None:
    readme = (ROOT / "README.md").read_text()
    assert "\npip install . && kdbench demo" in readme
    assert "\npip install -e '.[dev]' && pytest" in readme
    shown = set(re.findall(r"^\| `(\w+)` \|", readme, flags=re.MULTILINE))
    assert shown <= set(method_names())


@pytest.mark.checkout
def test_the_readmes_tutorial_is_typed(typed: Typed) -> None:
    """Every command of "A method of your own", with the edit that it asks for; training is cut to one epoch."""
    section = (ROOT / "README.md").read_text().partition("## A method of your own\n")[2].partition("\n## ")[0]
    (edit,) = re.findall(r"```python\n(.*?)\n```", section, flags=re.DOTALL)
    commands = re.findall(r"^kdbench .*$", section, flags=re.MULTILINE)
    assert [re.sub("--own own ", "", line).split()[1] for line in commands] == [
        "new", "validate", "teacher", "train", "table",
    ]  # fmt: skip
    assert set(re.findall(r"digits-demo-v\d+", section)) == {DEMO}, "as 'kdbench new' prints"
    for line in commands:
        words = shlex.split(line)[1:]
        code, out, err = typed(*words, *(["--epochs", "1"] if "--protocol" in words else []))
        assert code == 0, out + err
        if "new" in words:
            file = Path("own/methods/mine.py")
            before = file.read_text()
            file.write_text(re.sub(r"def direction_loss.*?(?=\n\n\n)", edit, before, flags=re.DOTALL))
            assert edit in file.read_text()
            assert edit not in before
        if "validate" in words:
            assert "all 18 checks passed" in out
            assert "\nrefused" not in out
    assert re.search(r"^mine +[\d.]+ ± [\d.]+ +2 ", out, flags=re.MULTILINE)


@pytest.mark.checkout
def test_the_readmes_network_is_typed(typed: Typed) -> None:
    """The module of "A network of your own", and its commands; training is cut to one epoch."""
    section = (ROOT / "README.md").read_text().partition("## A network of your own\n")[2].partition("\n## ")[0]
    (module,) = re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)
    assert len(module.splitlines()) <= 20
    commands = re.findall(r"^kdbench .*$", section, flags=re.MULTILINE)
    assert [line.split()[3] for line in commands] == ["validate", "train"]
    file = Path("own/networks/mynet.py")
    file.parent.mkdir(parents=True)
    file.write_text(module)
    for line in commands:
        words = shlex.split(line)[1:]
        code, out, err = typed(*words, *(["--epochs", "1"] if "--protocol" in words else []))
        assert code == 0, out + err
        if "validate" in words:
            assert re.search(r"^all \d+ checks passed$", out, flags=re.MULTILINE), out
