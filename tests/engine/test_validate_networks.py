"""``kdbench validate network``: every check finds a network that breaks it, and says what was seen and what to do."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from cells import Typed
from own_files import write_network

from kdbench.engine.checks.network_rules import Sized, devices
from kdbench.engine.checks.networks import CHECKS, SIZES, validate
from kdbench.engine.checks.rules import Broken
from kdbench.experiment import own_folders

STATE = "self.scale = 1.0"
# Of each network: lines in its constructor and in its forward(), the check that fails, and what it says.
BREAKING = {
    "an unused layer": ("self.more = nn.Linear(3, 3)", "", "gradients", r"model\.more\.\w+, .* get no gradient"),
    "detached": ("", "x = x + second.detach().mean((2, 3))\nx = x.detach()", "gradients", "and 3 more get no gradient"),
    "infinite": ("", "x = (x - x.detach()).sqrt() + x", "gradients", "is not finite"),
    "over the batch": ("", "x = x - x.mean(0)", "apart", "logits of an image depend on the other images"),
    "dropout": ("", "x = nn.functional.dropout(x, training=True)", "repeat", "two evaluations of one batch differ"),
    "numpy": (
        "with torch.no_grad():\n    self.fc.bias += float(np.random.rand())",
        "",
        "repeat",
        "two networks of one seed have other initial weights",
    ),
    "random": (
        "",
        "x = x * random.random() if self.training else x",
        "repeat",
        "two training passes of one seed differ",
    ),
    "seeded": ("torch.manual_seed(0)\nnn.init.normal_(self.fc.weight)\n[p.data.fill_(0.1) for p in "
               "(*self.first.parameters(), *self.second.parameters())]\nself.fc.bias.data.fill_(0)", "", "repeat",
               "seeds 1 and 2 give the same initial weights"),
    "view": (
        "self.fc = nn.Linear(12 * 64, num_classes)",
        "x = second.view(len(images), -1)",
        "channels last",
        r"mine\.py, line \d+: RuntimeError: view size is not compatible",
    ),
    "batch norm": (
        "self.norm = nn.BatchNorm1d(12)",
        "x = self.norm(x)",
        "one image",
        r"mine\.py, line \d+: ValueError: Expected more than 1 value per channel",
    ),
    "an attribute": (
        STATE,
        "self.scale = self.scale + 1.0 * self.training\nx = self.scale * x",
        "state",
        "saved weights, loaded into a fresh network, give other logits",
    ),
    "a closure": ("self.call = lambda x: self.fc(x)", "return self.call(x)", "copies", "copy"),
    "float64": ("self.fc.double()", "x = x.double()", "shapes", r"logits is torch\.float64, not torch\.float32"),
    "by the batch": ("", "x = x if len(x) == 2 else x.double().mul(float('nan')).float()", "shapes", "is not finite"),
}  # fmt: skip


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of own files; images of one size, and no other process."""
    monkeypatch.setenv(own_folders.OWN, str(tmp_path / "own"))
    for column in list(SIZES)[1:]:
        monkeypatch.delitem(SIZES, column)
    monkeypatch.delitem(CHECKS, "devices")
    return tmp_path / "own"


def test_a_network_that_keeps_all_rules_passes(own: Path) -> None:
    write_network(own)
    assert {(verdict.check, verdict.outcome) for verdict in validate("mine")} >= {
        (name, "ok") for name in CHECKS if name != "cuda"
    }


@pytest.mark.parametrize("fault", BREAKING)
def test_each_fault_is_found_by_its_check(fault: str, own: Path) -> None:
    init, forward, check, reason = BREAKING[fault]
    write_network(own, init=init, forward=forward)
    verdicts = validate("mine")
    failures = {verdict.check: verdict for verdict in verdicts if verdict.outcome == "FAILS"}
    assert check in failures, verdicts
    assert re.search(reason, failures[check].reason), failures[check].reason
    assert "\n" not in failures[check].reason
    assert failures[check].remedy == CHECKS[check].remedy


def test_every_check_has_a_network_that_breaks_it() -> None:
    assert {check for _, _, check, _ in BREAKING.values()} >= CHECKS.keys() - {"bf16", "devices", "cuda"}


def test_bf16_that_does_not_fit_is_found(own: Path) -> None:
    write_network(own, forward="x = torch.lerp(torch.zeros(12).expand_as(x), second.mean((2, 3)), 1.0)")
    assert "bf16" in {verdict.check for verdict in validate("mine") if verdict.outcome == "FAILS"}


def test_processes_that_differ_are_found(own: Path) -> None:
    """What a process of its own trains is not what one process trains."""
    write_network(own, forward='import os\nx = x * (1 + float(os.environ.get("RANK", "0")))')
    with pytest.raises(Broken, match=r"two processes train it to other weights than one"):
        devices(Sized("mine", (16, 16)))


def test_sizes_that_a_network_does_not_take_are_named(typed: Typed, own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIZES, "16x16", (16, 16))
    write_network(own, init="self.fc = nn.Linear(12 * 64, num_classes)", forward="x = second.flatten(1)")
    code, out, err = typed("--own", own, "validate", "network", "MINE")
    assert (code, err) == (0, "")
    assert re.match(r"mine, version 1, file mine\.py sha256:[0-9a-f]{8}, on a few images of each size:\n", out)
    assert re.search(r"^shapes +Logits, features .* ok +refused *$", out, flags=re.MULTILINE)
    assert re.search(r"^refused, 16x16: network mine cannot be used: .*mat1 and mat2 .*\)$", out, flags=re.MULTILINE)
    assert "32x32: stages 8x16x16, 12x8x8; penultimate 768; " in out
    assert "no map: mine: its classifier does not see the mean of its last stage" in out
    assert out.endswith(f"all {len(CHECKS) - (not torch.cuda.is_available())} checks passed on 1 of 2 sizes only\n")


def test_the_command_says_what_fails(typed: Typed, own: Path) -> None:
    write_network(own, init="self.more = nn.Linear(3, 3)")
    code, out, err = typed("--own", own, "validate", "network", "mine")
    assert (code, err) == (1, "")
    assert re.search(
        r"^FAILS, gradients on 32x32: model\.more\.\w+, .*\n    Use it in forward\(\)", out, flags=re.MULTILINE
    )
    assert re.search(r"^1 of \d checks fails$", out, flags=re.MULTILINE)
    write_network(own, more="Mine.STAGES = 'first', 'nothing'\n")
    code, out, _ = typed("--own", own, "validate", "network", "mine")
    assert code == 1
    assert out.count("there is no module 'nothing' in Mine") == 1
    assert out.endswith("nothing was checked: the network takes none of these images\n")
    code, _, err = typed("--own", own, "validate", "mine")
    assert (code, err) == (2, "kdbench: mine is a network: type 'kdbench validate network mine'\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["validate", "network"], "which network? Type 'kdbench validate network NAME'"),
        (["new", "protocol"], "which protocol? Type 'kdbench new protocol NAME'"),
        (["new", "methods", "mine"], "'methods mine' is no [method|network|protocol] NAME: type 'kdbench new"),
        (["new", "a", "b", "c"], "'a b c' is no [method|network|protocol] NAME"),
        (["new", "method", "network"], "'network' cannot be the name of a method: network is a word of 'kdbench new'"),
        (["new", "network", "resnet20"], "the name is taken by network resnet20 (kdbench "),
        (["new", "network", "a-b"], "the name of a network is a lower-case letter, then lower-case letters"),
        (["new", "protocol", "cifar100_crd_v1"], "the name is taken by protocol cifar100-crd-v1 ("),
        (["new", "protocol", "../x"], "the name of a protocol is letters, digits, '.', '_' and '-'"),
        (["validate", "network", "resnet21"], "there is no network 'resnet21'; did you mean"),
        (["validate", "protocol", "nothing"], "unknown protocol 'nothing'"),
    ],
)
def test_words_that_mean_nothing_are_one_line(words: list[str], message: str, typed: Typed) -> None:
    code, _, err = typed(*words)
    assert (code, err.count("\n")) == (2, 1), err
    assert message in err
