"""Tables on narrow terminals: every number stays, and text of users is no markup."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console
from rich.text import Text

from kdbench.cli.grid_view import Fitted, _table


def printed(width: int, *, soft_wrap: bool) -> str:
    table = _table("teacher > student", ["done", "planned", "failed"])
    table.add_row("resnet20 [b] > resnet8", Text("3"), Text("12,345"), Text("7"))
    console = Console(width=width, file=io.StringIO(), markup=False, emoji=False, soft_wrap=soft_wrap)
    console.print(Fitted(table))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("soft_wrap", [True, False])
@pytest.mark.parametrize("width", [9, 20, 40])
def test_a_table_that_is_too_wide_becomes_lines_with_all_its_numbers(width: int, soft_wrap: bool) -> None:
    text = printed(width, soft_wrap=soft_wrap)
    assert max(map(len, text.splitlines())) <= width
    assert re.sub(r"\s", "", text) == "resnet20[b]>resnet8:done3,planned12,345,failed7"


def test_a_table_that_fits_is_a_table() -> None:
    assert re.sub(r" +", " ", printed(80, soft_wrap=True)).splitlines() == [
        "teacher > student done planned failed",
        "resnet20 [b] > resnet8 3 12,345 7",
    ]
