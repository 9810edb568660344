"""Methods as users write them, in files of their own."""

from __future__ import annotations

import textwrap
from pathlib import Path

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
