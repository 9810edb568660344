"""What the README and the documents say: commands that exist, code that works, links that lead somewhere."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import typer
from cells import Typed
from typer.core import TyperGroup

import kdbench
from kdbench.cli.app import app
from kdbench.cli.options import DEMO
from kdbench.experiment.registry import load_method, method_names
from kdbench.grid.file import read_grid

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
GUIDES = ROOT / "docs" / "guides"
PAGES = [*sorted({*ROOT.glob("*.md")} - {ROOT / "CHANGELOG.md"}), *sorted((ROOT / "docs").rglob("*.md"))]
GENERATED = ("methods/", "commands/", "index.md", "api.md", "architecture.md", "gallery.md")
"""What may be made when the site is built: pages below docs/ to which links are not followed."""
COMMAND = typer.main.get_command(app)
pytestmark = pytest.mark.checkout


def blocks(page: Path, language: str | None = None) -> list[str]:
    """Return the fenced blocks of a page; of a language, or all of them."""
    text = page.read_text(encoding="utf-8")
    found = re.findall(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```", text, flags=re.DOTALL | re.MULTILINE)
    return [
        re.sub(f"^{indent}", "", code, flags=re.MULTILINE) for indent, name, code in found if language in (None, name)
    ]


def commands(text: str) -> Iterator[list[str]]:
    """Yield the words of each command line of kdbench in a block, without what a shell takes for itself."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True) if re.search(r"^ *kdbench |(&&|;) kdbench ", line) else []
        for is_separator, part in groupby(words, key=lambda word: word in {"&&", "|", ";"}):
            command = list(part)
            if not is_separator and command[0] == "kdbench":
                yield command[1 : command.index(">") if ">" in command else None]


def parse(words: list[str], *, whole: bool = True) -> str:
    """Parse a command without running it; return what is wrong. One that is not whole may lack arguments and values."""
    command, context = COMMAND, None
    try:
        while True:
            context = command.make_context(command.name, [*words], parent=context)
            if not isinstance(command, TyperGroup):
                return ""
            rest = [*context._protected_args, *context.args]
            if not rest:
                return ""
            _, command, words = command.resolve_command(context, rest)
    except Exception as error:
        missing = type(error).__name__ in {"MissingParameter", "BadOptionUsage", "NoArgsIsHelpError"}
        return "" if missing and not whole else f"{type(error).__name__}: {error}"


def section(page: Path, title: str) -> str:
    """Return the text below a heading of a page, up to the next one of its level."""
    text = page.read_text(encoding="utf-8").partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    assert text, f"{page.name} has no section {title}"
    return text


def slugs(page: Path) -> set[str]:
    """Return the anchors of a page's headings."""
    heads = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


def test_commands_of_documents_exist() -> None:
    """Every command line in a block, with its options and arguments, and every command within a sentence."""
    lines = {
        (page.name, shlex.join(words)): words for page in PAGES for text in blocks(page) for words in commands(text)
    }
    assert len(lines) > 60
    flaws = [(*key, flaw) for key, words in lines.items() if (flaw := parse(words))]
    for page in PAGES:
        prose = re.sub(r"^ *```.*?^ *```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
        for text in re.findall(r"`(kdbench [^`]*)`", prose):
            flaws += [(page.name, text, flaw) for words in commands(text) if (flaw := parse(words, whole=False))]
    assert not flaws


@pytest.mark.parametrize(
    "line",
    ["kdbench tabel runs", "kdbench table runs --layouts paper", "kdbench table runs --layout book", "kdbench eval"],
)
def test_wrong_commands_are_found(line: str) -> None:
    (words,) = commands(line)
    assert parse(words)


def test_code_of_documents_is_valid(tmp_path: Path) -> None:
    """Python compiles, TOML is TOML, and a grid's file is one."""
    for page in PAGES:
        for code in blocks(page, "python"):
            compile(code, page.name, "exec")
        for number, text in enumerate(blocks(page, "toml")):
            if {"pairs", "methods"} <= tomllib.loads(text).keys():
                file = tmp_path / f"{page.stem}-{number}.toml"
                file.write_text(text, encoding="utf-8")
                assert read_grid(file).num_cells


def test_links_of_documents_lead_somewhere() -> None:
    for page in PAGES:
        text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        for link in re.findall(r"\]\(([^)\s]+)\)", text):
            place, _, anchor = link.partition("#")
            target = (page.parent / place).resolve() if place else page
            if re.match(r"\w+:", link) or str(target.relative_to(ROOT)).removeprefix("docs/").startswith(GENERATED):
                continue
            assert target.exists(), f"{page.name}: {link}"
            assert not anchor or anchor in slugs(target), f"{page.name}: {link}"


def test_the_readme_is_a_front_page() -> None:
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    assert "\npip install . && kdbench demo" in text
    assert "\npip install -e '.[dev]' && pytest" in text


def test_the_readme_lists_every_method_in_its_family() -> None:
    lines = re.findall(r"^- (\w+): (\[.*)$", section(README, "Methods"), flags=re.MULTILINE)
    listed = {name: family for family, names in lines for name in re.findall(r"\[(\w+)\]\(methods/\1\.py\)", names)}
    assert listed == {name: load_method(name).FAMILY for name in method_names()}


def test_the_readme_shows_the_table_of_stored_records(typed: Typed) -> None:
    (line,) = re.findall(
        r"^`(kdbench table results/.*)` printed this", README.read_text(encoding="utf-8"), re.MULTILINE
    )
    (words,) = commands(line)
    code, out, err = typed(*(ROOT / word if word.startswith("results/") else word for word in words))
    assert (code, err) == (0, "")
    assert out.strip() in README.read_text(encoding="utf-8")


def undocumented(record: dict[str, Any], known: set[str], prefix: str = "") -> Iterator[str]:
    """Yield the dotted names of fields that the page of records does not name, nor an object around them."""
    for name, value in record.items():
        field = f"{prefix}{name}"
        is_absent = value is None and any(other.startswith(f"{field}.") for other in known)
        if field not in known and not is_absent:
            yield from undocumented(value, known, f"{field}.") if isinstance(value, dict) else [field]


def check_fields(runs: Path) -> None:
    """Assert that the page of records names every field of the records in a folder."""
    text = (ROOT / "docs/reference/records.md").read_text(encoding="utf-8")
    known = set(re.findall(r"^\| `([\w.]+)` \|", text, flags=re.MULTILINE))
    records = [json.loads(path.read_text(encoding="utf-8")) for path in runs.rglob("record.json")]
    assert records
    assert not {field for record in records for field in undocumented(record, known)}


def test_documented_fields_exist() -> None:
    """Each is a word of the code that writes records; that no field is missing is checked where records are made."""
    root = Path(kdbench.__file__).parent
    code = "".join(
        path.read_text(encoding="utf-8")
        for room in ("engine", "teachers", "models")
        for path in (root / room).glob("*.py")
    )
    code += (root / "experiment" / "record_checks.py").read_text(encoding="utf-8")
    text = (ROOT / "docs/reference/records.md").read_text(encoding="utf-8")
    for field in re.findall(r"^\| `([\w.]+)` \|", text, flags=re.MULTILINE):
        assert re.search(rf'["./]{field.rpartition(".")[2]}"', code), field


def test_the_tutorial_is_typed(typed: Typed) -> None:
    """Every command of "A method of your own", with the edit that it asks for; training is cut to one epoch.

    The guide has the same code and commands as the README.
    """
    text = section(README, "A method of your own")
    (edit,) = re.findall(r"```python\n(.*?)\n```", text, flags=re.DOTALL)
    lines = re.findall(r"^kdbench .*$", text, flags=re.MULTILINE)
    assert len([*edit.splitlines(), *lines]) <= 15
    guide = (GUIDES / "own-methods.md").read_text(encoding="utf-8")
    assert edit in guide
    assert re.findall(r"^kdbench .*$", guide, flags=re.MULTILINE) == lines
    assert [re.sub("--own own ", "", line).split()[1] for line in lines] == [
        "new", "validate", "teacher", "train", "table",
    ]  # fmt: skip
    assert set(re.findall(r"digits-demo-v\d+", text)) == {DEMO}, "as 'kdbench new' prints"
    for line in lines:
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
    check_fields(Path("runs"))


def test_the_guides_network_is_typed(typed: Typed) -> None:
    """The module of "A network of your own", and its commands; training is cut to one epoch."""
    text = section(GUIDES / "own-networks.md", "A network of your own")
    (module,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(module.splitlines()) <= 20
    lines = re.findall(r"^kdbench .*$", text, flags=re.MULTILINE)
    assert [line.split()[3] for line in lines] == ["validate", "train"]
    file = Path("own/networks/mynet.py")
    file.parent.mkdir(parents=True)
    file.write_text(module)
    for line in lines:
        words = shlex.split(line)[1:]
        code, out, err = typed(*words, *(["--epochs", "1"] if "--protocol" in words else []))
        assert code == 0, out + err
        if "validate" in words:
            assert re.search(r"^all \d+ checks passed$", out, flags=re.MULTILINE), out
    check_fields(Path("runs"))


def test_the_guides_rules_are_valid(typed: Typed) -> None:
    page = GUIDES / "own-rules.md"
    (rules,) = blocks(page, "toml")
    file = Path("own/protocols/mine-v1.toml")
    file.parent.mkdir(parents=True)
    file.write_text(rules)
    (line,) = (words for text in blocks(page) for words in commands(text) if "validate" in words)
    code, out, err = typed(*line)
    assert code == 0, out + err
