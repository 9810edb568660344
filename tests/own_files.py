"""Methods, networks and protocols as users write them, in files of their own."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

HELD_OUT_SHARE = 0.2
HELD_OUT_RULES = f"""
base = "digits-demo-v2"
title = "Digits, some of them held out"
source = "for tests"
version = 1
[schedule]
epochs = 2
[teacher]
epochs = 2
[evaluation]
validation = {HELD_OUT_SHARE}
"""
"""A protocol of a user's own whose cells hold images out."""
METHOD = '''"""Mine: the student's logits follow the teacher's.

By their mean squared error.
"""

import copy
import random
import time

import torch
from torch import nn

from kdbench.method import Method, Paper, Reads

RNG = torch.Generator().manual_seed(0)


class Mine(Method):
    """Cross entropy and the mean squared error of the logits."""

    FAMILY = "logits"
    PAPER = Paper("Mine: Logits by Their Mean Squared Error", "Somebody, Another", "ICML", 2024, "2401.00001")
    READS = Reads(student={"logits", "penultimate"}, teacher={"logits"})

    def __init__(self, config, setup):
        super().__init__(config, setup)
        self.head = nn.Linear(setup.student.width, setup.student.num_classes)
        # INIT

    # MORE

    def loss(self, student, teacher, batch):
        ce = nn.functional.cross_entropy(student.logits.float(), batch.targets)
        ours = (student.logits + self.head(student.penultimate)).float()
        mine = (ours - teacher.logits.float()).square().mean()
        # LOSS
        return {"ce": ce, "mine": 0.1 * mine}


METHOD = Mine
'''


def write_own(
    folder: Path, name: str = "mine", *, init: str = "", more: str = "", loss: str = "", recipe: str = ""
) -> Path:
    """Write a method, with more lines in its constructor, its class and its loss, and a recipe."""
    folder.mkdir(exist_ok=True)
    text = METHOD.replace("# INIT\n", f"{_indented(init)}\n").replace("# LOSS\n", f"{_indented(loss)}\n")
    text = text.replace("# MORE\n", f"{_indented(more, 4)}\n")
    (folder / f"{name}.py").write_text(text)
    if recipe:
        (folder / f"{name}.toml").write_text(recipe)
    return folder / f"{name}.py"


def _indented(lines: str, num: int = 8) -> str:
    return textwrap.indent(lines, " " * num).strip()


def install(site: Path, package: str, *names: str) -> None:
    """Put a package with entry points into a folder of packages."""
    for name in names:
        write_own(site / package, name, recipe="# none\n")
    (site / package / "__init__.py").write_text("")
    about = site / f"{package}-1.2.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.2\n")
    lines = [f"{name} = {package}.{name}" for name in names]
    (about / "entry_points.txt").write_text("\n".join(["[kdbench.methods]", *lines, ""]))


NETWORK = '''"""Mine: two stages."""

import random

import numpy as np
import torch
from torch import nn

from kdbench.net import Backbone, Features


def block(channels_in, channels, stride):
    return nn.Sequential(
        nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()
    )


class Mine(nn.Module):
    VERSION = 1
    STAGES = "first", "second"

    def __init__(self, num_classes):
        super().__init__()
        self.first, self.second = block(3, 8, 2), block(8, 12, 2)
        self.fc = nn.Linear(12, num_classes)
        # INIT

    def forward(self, images):
        first = self.first(images)
        second = self.second(first)
        x = second.mean((2, 3))
        # FORWARD
        return self.fc(x)
'''


def write_network(
    own: Path, name: str = "mine", *, init: str = "", forward: str = "", more: str = "", version: int = 1
) -> Path:
    """Write a plain module below a folder of own files, with more lines in its constructor, its forward() and its end.

    Modules of it that were imported are forgotten, as another process would not know them.
    """
    folder = own / "networks"
    folder.mkdir(parents=True, exist_ok=True)
    text = NETWORK.replace("# INIT\n", f"{_indented(init)}\n").replace("# FORWARD\n", f"{_indented(forward)}\n")
    text = text.replace("VERSION = 1", f"VERSION = {version}")
    (folder / f"{name}.py").write_text(f"{text}\n\n{textwrap.dedent(more)}")
    forget()
    return folder / f"{name}.py"


def forget() -> None:
    """Let the next import of users' code read its files again."""
    for module in [name for name in sys.modules if name.startswith("kdbench.experiment.user_")]:
        if module.count(".") > 2:
            del sys.modules[module]
