"""The rooms of the house: imports go down only, and every room is in the wheel."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import kdbench
import kdbench.slurm

ROOT = Path(__file__).parent.parent
# From the top down: a file may import from its own room and from those below it.
FLOORS: tuple[dict[str, tuple[str, ...]], ...] = (
    {"cli": ("kdbench.cli", "kdbench.__main__")},
    {"slurm": ("kdbench.slurm",), "verify": ("kdbench.verify",)},
    {"grid": ("kdbench.grid",), "analysis": ("kdbench.analysis",)},
    {"engine": ("kdbench.engine",)},
    {"teachers": ("kdbench.teachers",)},
    {"models": ("kdbench.models",)},
    {"data": ("kdbench.data",)},
    {"search": ("kdbench.search",)},
    {"experiment": ("kdbench.experiment",)},
    {
        "the seam": (
            *("kdbench.method", "kdbench.seam", "kdbench.net", "kdbench.config", "kdbench.space"),
            "kdbench.functional",
        )
    },
    {"utils": ("kdbench.utils",)},
    {"errors": ("kdbench.errors",)},
)
DATA = ("kdbench.methods", "kdbench.results")
"""No rooms: the harness reads them, and installed they lie beside the rooms."""
PUBLIC = {"kdbench"}
"""``kdbench`` itself hands out public names of the rooms, on first use."""


def modules() -> dict[str, Path]:
    """Every module of the installed package but methods, by its dotted name."""
    names = {}
    folders = {"kdbench": Path(kdbench.__file__).parent, "kdbench.slurm": Path(kdbench.slurm.__file__).parent}
    for package, folder in folders.items():
        for path in sorted(folder.rglob("*.py")):
            parts = [package, *path.relative_to(folder).with_suffix("").parts]
            names[".".join(part for part in parts if part != "__init__")] = path
    return {name: path for name, path in names.items() if not name.startswith(DATA)}


def level(module: str) -> tuple[int, str] | None:
    """Floor and room of a module; None for what is no room: ``kdbench`` itself, its methods and results."""
    for floor, rooms in enumerate(FLOORS):
        for room, parts in rooms.items():
            if any(module == part or module.startswith(f"{part}.") for part in parts):
                return floor, room
    return None


def imports(module: str, tree: ast.AST, known: set[str]) -> Iterator[tuple[int, str]]:
    """Lines and modules of kdbench that a file imports, in functions and for type checking as well."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names if alias.name.split(".")[0] == "kdbench")
        elif isinstance(node, ast.ImportFrom):
            above = (
                module.split(".")[: -node.level] if node.level else []
            )  # no file with a relative import is a package
            source = ".".join([*above, *filter(None, [node.module])])
            if source.split(".")[0] == "kdbench":
                for alias in node.names:
                    name = f"{source}.{alias.name}"
                    yield node.lineno, name if name in known else source


def arrows() -> dict[str, list[tuple[int, str]]]:
    files = modules()
    return {
        module: [
            (line, other)
            for line, other in imports(module, ast.parse(path.read_text(encoding="utf-8")), set(files))
            if other not in PUBLIC and other != module
        ]
        for module, path in files.items()
    }


def test_every_module_has_a_room() -> None:
    homeless = [module for module in modules() if level(module) is None and module not in PUBLIC]
    assert not homeless


def test_imports_go_down_only() -> None:
    wrong = []
    for module, others in arrows().items():
        if module in PUBLIC:
            continue
        here = level(module)
        assert here is not None, module
        for line, other in others:
            there = level(other)
            assert there is not None, f"{module}, line {line} imports {other}: methods and results are data to it"
            if there[1] != here[1] and there[0] <= here[0]:
                wrong.append(f"{module}, line {line}: {here[1]} may not import {other}")
    assert not wrong, "\n".join(wrong)


def test_no_circle_of_files() -> None:
    """What imports what has an order, so that a file can be read after those that it imports."""
    left = {module: {other for _, other in others} for module, others in arrows().items()}
    while free := [module for module, others in left.items() if not others & left.keys()]:
        for module in free:
            del left[module]
    assert not left, f"these import each other in a circle, or import such files: {sorted(left)}"


@pytest.mark.checkout
def test_every_package_is_in_the_wheel() -> None:
    """setuptools takes the packages that pyproject.toml lists, and says nothing about one that is missing there."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    tops = {name: ROOT / name.rpartition(".")[2] for name in settings["package-dir"]} | {"kdbench": ROOT / "kdbench"}
    folders = {
        ".".join([package, *path.parent.relative_to(top).parts])
        for package, top in tops.items()
        for path in top.rglob("__init__.py")
    }
    assert sorted(settings["packages"]) == sorted(folders)
    for package, patterns in settings["package-data"].items():
        folder = tops.get(package, ROOT / package.replace(".", "/"))
        assert all(list(folder.glob(pattern)) for pattern in patterns), package
