"""Find the TOML files beside methods and networks, which say what tables need without their code being run."""

from __future__ import annotations

import sys
from importlib import resources
from pathlib import Path

from kdbench.experiment import user_methods, user_networks
from kdbench.experiment.own_code import Kind, installed, module_file
from kdbench.experiment.own_folders import folders_of

METHOD = Kind("method", "methods", "kdbench.methods", user_methods.__name__)
NETWORK = Kind("network", "networks", "kdbench.networks", user_networks.__name__)


def own_files(kind: Kind) -> dict[str, Path]:
    """Return the files beside users' code of a kind, by name, of which not all exist.

    Code of folders comes before that of installed packages.
    """
    modules = [(file.stem, file) for folder in folders_of(kind.folders) for file in _modules(folder)]
    modules += [
        (source.name, file)
        for source in installed(kind, tuple(sys.path))
        if (file := module_file(source.module_name)) is not None
    ]
    return {name: file.with_suffix(".toml") for name, file in reversed(modules)}


def method_files() -> dict[str, Path]:
    """Return the files beside all methods, by name, of which not all exist."""
    folder = Path(str(resources.files("kdbench.methods")))
    return own_files(METHOD) | {file.stem: file.with_suffix(".toml") for file in _modules(folder)}


def _modules(folder: Path) -> list[Path]:
    return sorted(folder.glob("[!_.]*.py"))
