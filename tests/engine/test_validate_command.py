"""``kdbench validate`` on the screen: what fails and what to do, in lines that a user reads."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from cells import Typed
from own_files import write_own

from kdbench.engine.checks.small import PAIRS


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (
            "class Config(Method.Config):\n    name: str = 'x'\n    'A.'",
            "Mine has a setting name, which is how records",
        ),
        ("class Config(Method.Config):\n    version: int = 1\n    'A.'", "Mine has a setting version, which is how"),
        (
            "@classmethod\ndef views(cls, config):\n    return 1 / 0",
            "Mine.views() fails with the default settings, Zero",
        ),
    ],
)
def test_a_method_that_cannot_be_run_is_said_in_one_line(more: str, text: str, typed: Typed) -> None:
    write_own(Path("own"), more=more)
    code, out, err = typed("--methods", "own", "validate", "mine")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert text in err


def test_the_command_says_what_fails_and_what_to_do(typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(PAIRS, "vit>cnn")
    write_own(Path("own"), loss='mine = mine * float("nan")')
    code, out, err = typed("--methods", "own", "validate", "MINE")
    assert (code, err) == (1, "")
    assert re.match(r"mine, version 1, file mine\.py sha256:[0-9a-f]{8}, in steps of a few images", out)
    assert re.search(r"^losses +Every term of the loss .* FAILS +FAILS *$", out, flags=re.MULTILINE)
    assert re.search(r"^recipe +The recipe file fits the settings +ok *$", out, flags=re.MULTILINE)
    assert "FAILS, losses on cifar, timm: term mine is nan in step 1\n    Return a dict of scalars; guard" in out
    assert re.search(r"^5 of 18 checks fail$", out, flags=re.MULTILINE)


def test_checks_on_some_pairs_say_so(typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(PAIRS, "vit>cnn")
    refusal = 'if setup.student.name != "resnet8":\n    raise ValueError("only resnet8")'
    write_own(Path("own"), init=refusal)
    code, out, _ = typed("--methods", "own", "validate", "mine")
    assert (code, out.splitlines()[-1]) == (0, "all 18 checks passed on 1 of 2 pairs only")


def test_a_method_that_refuses_every_pair_is_not_checked(typed: Typed) -> None:
    write_own(Path("own"), init='raise ValueError("it wants three networks")')
    code, out, err = typed("--methods", "own", "validate", "mine")
    assert (code, err) == (1, "")
    assert out.count("it wants three networks") == 1
    assert out.endswith("nothing was checked: the method supports none of these pairs\n")


@pytest.mark.parametrize(
    ("name", "said"), [("mien", "unknown method 'mien': did you mean mine"), ("broken", "cannot be used")]
)
def test_what_is_no_method_is_said_in_one_line(name: str, said: str, typed: Typed) -> None:
    write_own(Path("own"))
    Path("own/broken.py").write_text("import nothing_of_this_name\n")
    code, _, err = typed("--methods", "own", "validate", name)
    assert (code, err.count("\n")) == (2, 1)
    assert said in err


def test_a_step_that_fails_is_said_once(typed: Typed) -> None:
    for loss, name, line in (("x = student.stages", "reads", ""), ("x = 1 / 0", "losses", "mine.py, line 36: ZeroDiv")):
        write_own(Path("own"), loss=loss)
        code, out, err = typed("--methods", "own", "validate", "mine")
        assert (code, err, out.count("FAILS, ")) == (1, "", 1)
        assert re.search(rf"^FAILS, {name} on cifar, timm, vit>cnn: .*{line}.*\n    \w", out, flags=re.MULTILINE)
        assert out.endswith("\n1 of 18 checks fails; the others could not be run\n")
