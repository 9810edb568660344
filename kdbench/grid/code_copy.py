"""Copy the code for a submission, so that its jobs run what was submitted."""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
from pathlib import Path

from kdbench.engine.environment import CODE_STATE, code_state
from kdbench.experiment.user_methods import FOLDERS, folders
from kdbench.utils.files import explain_os_errors, write_json

CODE = "code"
"""Folder of the copy in a submission's folder."""
_PACKAGES = ("kdbench", "kdbench.methods", "kdbench.slurm")


def copy_code(folder: Path) -> list[str]:
    """Copy the code to a submission's folder; return the lines of shell that let a job import it from there.

    Of users' folders of methods, the Python and TOML files are copied: methods, helpers and recipes.
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
        copies = [code / "own" / str(number) for number in range(len(folders()))]
        for user_folder, copy in zip(folders(), copies, strict=True):
            copy.mkdir(parents=True)
            for path in (*user_folder.glob("*.py"), *user_folder.glob("*.toml")):
                shutil.copy(path, copy)
    # Without the second line, the folder in which the job was submitted would come first.
    lines = [f"export PYTHONPATH={shlex.quote(str(code))}${{PYTHONPATH:+:$PYTHONPATH}}", "export PYTHONSAFEPATH=1"]
    user_folders = os.pathsep.join(map(str, copies))
    return [*lines, f"export {FOLDERS}={shlex.quote(user_folders)}"] if user_folders else lines
