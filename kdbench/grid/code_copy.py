"""Copy the code for a submission, so that its jobs run what was submitted."""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
from collections.abc import Iterable
from pathlib import Path

from kdbench.engine.environment import CODE_STATE, code_state
from kdbench.experiment.own_folders import KINDS, METHODS, OWN, named
from kdbench.utils.files import explain_os_errors, write_json

CODE = "code"
"""Folder of the copy in a submission's folder."""
_PACKAGES = ("kdbench", "kdbench.methods", "kdbench.slurm")


def copy_code(folder: Path) -> list[str]:
    """Copy the code to a submission's folder; return the lines of shell that let a job import it from there.

    Of users' folders, the Python and TOML files are copied: methods, networks, helpers, recipes and protocols.
    """
    code = folder / CODE
    ignore = shutil.ignore_patterns("__pycache__", "*.pyc")
    with explain_os_errors(code):
        for package in _PACKAGES:
            spec = importlib.util.find_spec(package)
            assert spec is not None, package
            for source in spec.submodule_search_locations or ():
                shutil.copytree(source, code / package.replace(".", "/"), ignore=ignore, dirs_exist_ok=True)
        write_json(code / CODE_STATE, code_state())
        exports = [*_copy_own(METHODS, code, ("",)), *_copy_own(OWN, code, KINDS)]
    # Without the second line, the folder in which the job was submitted would come first.
    lines = [f"export PYTHONPATH={shlex.quote(str(code))}${{PYTHONPATH:+:$PYTHONPATH}}", "export PYTHONSAFEPATH=1"]
    return [*lines, *exports]


def _copy_own(variable: str, code: Path, below: Iterable[str]) -> list[str]:
    """Copy the folders that a variable names; return the line of shell that names the copies, if there are any."""
    copies = []
    for number, folder in enumerate(named(variable)):
        copies.append(code / variable.lower() / str(number))
        for place in below:
            target = copies[-1] / place
            target.mkdir(parents=True, exist_ok=True)
            for path in (*(folder / place).glob("*.py"), *(folder / place).glob("*.toml")):
                shutil.copy(path, target)
    return [f"export {variable}={shlex.quote(os.pathsep.join(map(str, copies)))}"] if copies else []
