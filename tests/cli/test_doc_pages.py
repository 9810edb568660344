"""The generated pages of the documentation: nothing of a method or a command is left out, and text stays text."""

from __future__ import annotations

import html
import re
import sys
from pathlib import Path

import pytest
import typer

from kdbench.cli import method_page
from kdbench.cli.app import app
from kdbench.experiment.registry import load_method, method_names

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "docs" / "hooks"))
pytestmark = pytest.mark.checkout


def read(markdown: str) -> str:
    """What a reader sees of text and tables."""
    return html.unescape(re.sub(r"<[^>]*>", "", markdown))


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """No network of any pair is built."""
    monkeypatch.setattr(method_page, "why_unsupported", lambda *_: "")


@pytest.mark.parametrize("name", method_names())
def test_a_method_has_a_page_with_all_that_is_known_of_it(name: str, fast: None) -> None:
    import method_pages

    kind, page = load_method(name), method_page.MethodPage.of(name)
    text = method_pages.markdown(page, [method_pages.Extra("teacher>student", "1,234")])
    seen = read(text)
    assert seen.startswith(f"# {method_pages.title(page)}\n")
    assert "teacher>student: 1,234" in seen
    if kind.PAPER:
        assert kind.PAPER.title in seen
        assert kind.PAPER.authors in seen
    if kind.PAPER and kind.PAPER.arxiv:
        assert f'<a href="https://arxiv.org/abs/{kind.PAPER.arxiv}">' in text
    for setting in page.settings:
        assert re.search(rf"^\| {setting.name} \| ", seen, flags=re.MULTILINE), setting.name
        assert " ".join(setting.text.replace("`", "").split()) in seen
        assert setting.ours.replace("`", "") in seen
    for recipe in page.recipes:
        assert " ".join(recipe.source.split()) in seen
    for deviation in kind.DEVIATIONS:
        assert deviation.replace("`", "") in seen


def test_published_values_stand_with_their_sources(fast: None) -> None:
    import method_pages

    seen = read(method_pages.markdown(method_page.MethodPage.of("crd"), []))
    assert re.search(r"^\| wrn_40_2>wrn_16_2 \| 75\.48.*\| crd \| cifar100-crd-v1[; ]", seen, flags=re.MULTILINE)
    assert "- crd: Tian et al., Contrastive Representation Distillation" in seen


def test_the_index_links_every_method_once(fast: None) -> None:
    import method_pages

    pages = [method_page.MethodPage.of(name) for name in method_names()]
    links = re.findall(r"\]\((\w+)\.md\)", method_pages.index(method_pages.by_family(pages)))
    assert sorted(links) == sorted(method_names())


def test_a_method_without_a_teacher_asks_for_none(fast: None) -> None:
    import method_pages

    seen = read(method_pages.markdown(method_page.MethodPage.of("ce"), []))
    assert "--teacher" not in seen
    assert "none: it has no teacher" in seen


def test_a_command_has_a_page_with_all_of_its_options() -> None:
    import command_pages

    root = typer.main.get_command(app)
    for name, command in root.commands.items():
        seen = read(command_pages.markdown(name))
        members = getattr(command, "commands", {})
        assert seen.startswith(f"# kdbench {name}\n")
        assert all(f"\n## kdbench {name} {member}\n" in seen for member in members)
        for each in members.values() or [command]:
            section = seen.partition(f"## kdbench {name} {each.name}\n")[2].partition("\n## ")[0] if members else seen
            for parameter in each.params:
                spelled = parameter.get_help_record(typer.Context(each))[0].split()[0]
                assert f"\n| {spelled} " in section, (name, spelled)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("Number of jobs. [default: 1]", ("Number of jobs.", "1")),
        ("Network to train.  [required]", ("Network to train.", "required")),
        ("Rounds.  [default: 10; x>=1]", ("Rounds.", "10; x>=1")),
        ("Download the data set.", ("Download the data set.", "")),
        ("A setting as [METHOD.]KEY, given once.", ("A setting as [METHOD.]KEY, given once.", "")),
    ],
)
def test_a_default_has_a_column_of_its_own(text: str, parts: tuple[str, str]) -> None:
    import command_pages

    assert command_pages.split_default(text) == parts


NASTY = [
    "<script>alert(1)</script>",
    "a | b",
    "*a* _b_ [c](d) ![e](f)",
    "# no heading",
    "- no list",
    "1. no list",
    "a & b",
]


@pytest.mark.parametrize("text", NASTY)
def test_text_stays_text(text: str) -> None:
    import marking

    for marked in (marking.escaped(text), marking.prose(text), marking.code(text)):
        inside = marked.removeprefix("<code>").removesuffix("</code>")
        assert not re.search(r"[<>|*_\[\]`!\\]|&(?!#\d+;)|(?<!&)#|^-|^1\.", inside), marked
        assert html.unescape(inside) == text


def test_backticks_are_code_and_all_else_is_text() -> None:
    import marking

    assert marking.prose("The ``a_b`` and `c`,\n  not <d>.") == (
        "The <code>a&#95;b</code> and <code>c</code>, not &#60;d&#62;."
    )
    assert read(marking.paragraphs("One\nline.\n\n    a * b\n    c\n\nLast.")) == "One line.\n\na * bc\n\nLast."
    assert marking.table(("x", "y"), [("1", "2")]) == "| x | y |\n| --- | --- |\n| 1 | 2 |"


def test_an_address_cannot_leave_its_link() -> None:
    import marking

    assert marking.link("a", 'https://x"><b>') == '<a href="https://x&#34;&#62;&#60;b&#62;">a</a>'
    assert marking.link("a", "") == "a"


def test_a_public_name_without_a_docstring_is_named(tmp_path: Path) -> None:
    pytest.importorskip("griffe")
    import public_names

    (tmp_path / "shown_package.py").write_text(
        '"""Text."""\n\n__all__ = ["Given", "silent"]\n\n\n'
        'class Given:\n    """Text.\n\n    Parameters\n    ----------\n    known\n        Text.\n    """\n\n'
        "    known: int\n    unknown: int\n    _own: int\n\n"
        "    def method(self):\n        pass\n\n\n"
        "def silent():\n    pass\n\n\ndef not_public():\n    pass\n"
    )
    assert public_names.undocumented(["shown_package"], tmp_path) == [
        "shown_package.Given.unknown", "shown_package.Given.method", "shown_package.silent",
    ]  # fmt: skip
