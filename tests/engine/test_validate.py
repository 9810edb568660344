"""``kdbench validate``: every check finds a method that breaks it, and says what was seen and what to do."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from cells import Typed
from own_files import write_own

from kdbench.engine.checks.small import PAIRS
from kdbench.engine.checks.table import CHECKS
from kdbench.engine.checks.validate import Verdict, judge, remarks, rows
from kdbench.engine.checks.watched import Watched, trained
from kdbench.experiment.user_methods import FOLDERS

RECIPE = '[[recipe]]\ndataset = "cifar100"\npairs = {pairs}\nsettings = {settings}\nsource = "{source}"\n'


def recipe(pairs: str = '["resnet56>resnet20"]', settings: str = "{}", source: str = "a paper") -> str:
    return RECIPE.format(pairs=pairs, settings=settings, source=source)


FIRST = """
@classmethod
def pretraining(cls, config):
    return 1.0

def pretrain(self, student):
    from kdbench.method import Pretraining
    return Pretraining(loss=self.first, train=(self.early,), freeze=(self.early,))

def first(self, student, teacher, batch):
    return {"early": self.early(teacher.logits).float().square().mean() * FACTOR}
"""
EARLY = "self.early = nn.Linear(setup.teacher.num_classes, 2)"

# An average of the student's weights that is evaluated: outside of all modules, or as a buffer of the method.
AVERAGE = """
def wrap(self, setup):
    net = setup.student
    average = copy.deepcopy(net).requires_grad_(False)
    self.pair, plain = [net, average], net.forward
    def forward(images, reads=frozenset({"logits"}), owner="student"):
        return plain(images, reads, owner) if net.training else average(images, reads, owner)
    net.forward = forward
    return net
"""
FOLLOW = """
with torch.no_grad():
    for old, new in zip(self.pair[1].parameters(), self.pair[0].parameters()):
        old.lerp_(new, 0.01)
"""
ALIKE = "self.copy = copy.deepcopy(setup.student).requires_grad_(False)"
BUFFERED = AVERAGE.replace("average = copy.deepcopy(net).requires_grad_(False)", "average = self.copy")
# The same as it should be: what is evaluated is part of the network that is saved.
SAVED = """
def wrap(self, setup):
    from kdbench.net import Backbone
    class Averaged(Backbone):
        def __init__(self, body):
            super().__init__()
            self.body, self.average = body, copy.deepcopy(body).requires_grad_(False)
        def features(self, images, *, maps):
            return (self.body if self.training else self.average).features(images, maps=maps)
        def head(self):
            return (self.body if self.training else self.average).head()
    net = setup.student.around(Averaged(setup.student.backbone))
    self.pair = [net.backbone.body, net.backbone.average]
    return net
"""

# The check that must fail, what is broken, and what is said.
BROKEN: list[tuple[str, dict[str, str], str]] = [
    ("losses", {"loss": 'mine = mine * float("nan")'}, r"term mine is nan in step 1"),
    ("losses", {"loss": "return {}"}, r"RuntimeError: stack expects a non-empty"),
    ("losses", {"loss": 'return {"": ce}'}, r"a term is called ''"),
    ("losses", {"loss": 'return {"ce": ce[None]}'}, r"term ce is no scalar"),
    ("losses", {"loss": "mine = mine.item()"}, r"mine\.py, line 37: loss\(\) returns a float as term 'mine': return a"),
    ("losses", {"loss": "return ce"}, r"mine\.py, line 36: loss\(\) returns a Tensor, not a dict of terms: name"),
    ("losses", {"loss": "x = 1 / 0"}, r"mine\.py, line 36: ZeroDivisionError: division by zero"),
    (
        "losses",
        {"init": EARLY, "more": f'FACTOR = float("inf"){FIRST}'.replace("* FACTOR", "* self.FACTOR")},
        "term early is inf in step 1 of pre-training",
    ),
    (
        "reads",
        {"loss": "x = student.stages"},
        r"student does not give 'stages': add it to the method's Reads\(student=",
    ),
    ("reads", {"loss": "x = teacher.penultimate"}, r"teacher does not give 'penultimate'.*Reads\(teacher="),
    ("reads", {"init": "self.ask = [setup.teacher]", "loss": "self.ask[0](batch.images)"}, "runs the teacher itself"),
    ("gradients", {"init": "self.idle = nn.Linear(2, 2)"}, r"method\.idle\.bias, method\.idle\.weight get no gradient"),
    ("gradients", {"loss": "mine = mine.detach()"}, r"method\.head\.bias, method\.head\.weight get no gradient"),
    ("gradients", {"loss": "mine = mine + 0 * self.head.bias.sum().sqrt()"}, r"is not finite"),
    ("teacher", {"loss": "teacher.logits.add_(1)"}, r"loss\(\) changes the teacher's logits"),
    ("teacher", {"loss": "batch.images.zero_()"}, r"loss\(\) changes its images"),
    (
        "teacher",
        {"init": "self.keep = [setup.teacher]", "loss": "self.keep[0].backbone.head().weight.data.mul_(0.9)"},
        r"the teacher's weights or statistics are changed",
    ),
    ("teacher", {"init": "self.keep = setup.teacher"}, r"the teacher is in training mode"),
    (
        "state",
        {
            "init": 'self.register_buffer("bank", torch.zeros(0))',
            "loss": "self.bank = torch.cat([self.bank, ce.detach()[None]])",
        },
        r"RuntimeError: .*bank",
    ),
    ("resume", {"init": "self.count = 1", "loss": "self.count += 1; ce = ce * self.count"}, r"ends with other weights"),
    (
        "resume",
        {
            "init": 'self.register_buffer("m", torch.ones(1), persistent=False)',
            "loss": "ce = ce * self.m.mul_(2).sum()",
        },
        r"ends with other weights",
    ),
    ("resume", {"more": AVERAGE, "loss": FOLLOW}, r"an evaluation gives other logits from the same weights"),
    ("weights", {"more": AVERAGE, "loss": FOLLOW}, r"give other logits than were evaluated"),
    ("weights", {"more": BUFFERED, "init": ALIKE, "loss": FOLLOW}, r"give other logits than were evaluated"),
    ("repeat", {"loss": "ce = ce * random.random()"}, r"two runs of one seed differ"),
    ("repeat", {"loss": "ce = ce * torch.rand((), generator=RNG)"}, r"two runs of one seed differ"),
    ("repeat", {"loss": "ce = ce * (time.time_ns() % 1009)"}, r"two runs of one seed differ"),
    ("processes", {"loss": 'ce = ce * (1 + hash("mine") % 1009)'}, r"another process gets other weights"),
    (
        "seeds",
        {
            "init": "[p.data.zero_() for p in [*setup.student.parameters(), *self.parameters()]]",
            "loss": 'return {"ce": 0 * (student.logits.sum() + self.head(student.penultimate).sum())}',
        },
        r"seeds 1 and 2 give the same",
    ),
    ("paired", {"init": "setup.student.backbone.head().weight.data.mul_(2)"}, r"fc\.weight .* does not begin as"),
    ("one image", {"loss": "mine = mine + (ours - ours.mean(dim=0)).square().sum() / (batch.size - 1)"}, r"mine = nan"),
    ("bf16", {"loss": "ce = student.logits.square().mean()"}, r"ce of the loss is in half precision"),
    ("fp16", {"loss": "ce = (1e6 * student.logits.half()).float().square().mean()"}, r"ce = (inf|nan)"),
    ("no waiting", {"loss": "ce = ce * mine.item()"}, r"mine\.py, line 36: DataDependentOutputException"),
    ("no waiting", {"loss": "ce = ours[ours > 0].mean()"}, r"line 36: DynamicOutputShapeException"),
    ("no waiting", {"loss": "ce = ce if mine > 0 else -ce"}, r"line 36: DataDependentOutputException"),
    ("no waiting", {"loss": "ce = ours[ours.argmax(dim=1).unique()].sum()"}, r"line 36: DynamicOutputShapeException"),
    (
        "in place",
        {"init": 'self.register_buffer("mean", torch.zeros(()))', "loss": "self.mean = 0.9 * self.mean + ce.detach()"},
        r"method\.mean moved to other memory",
    ),
    ("recipe", {"recipe": recipe(settings="{ temperature = 2.0 }")}, r"temperature is no setting; there are none"),
    ("recipe", {"recipe": recipe(pairs='["resnet56>resnett"]')}, r"resnett"),
    ("recipe", {"recipe": recipe(pairs='["ResNet-56>resnet20"]')}, r"is spelt resnet56>resnet20"),
    ("recipe", {"recipe": recipe() * 2}, r"2 recipes for resnet56>resnet20 on cifar100"),
    ("recipe", {"recipe": recipe(source="")}, r"has no source"),
    ("recipe", {"recipe": "[[recipe]]\n"}, r"mine\.toml: each \[\[recipe\]\] needs dataset"),
    ("recipe", {"recipe": "x"}, r"mine\.toml is not TOML"),
]


@pytest.mark.parametrize(("check", "broken", "said"), BROKEN, ids=[f"{c}-{n}" for n, (c, _, _) in enumerate(BROKEN)])
def test_every_check_can_fail(
    check: str, broken: dict[str, str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_own(tmp_path / "own", **broken)
    monkeypatch.setenv(FOLDERS, str(tmp_path / "own"))
    verdict = judge(check, Watched("mine", "cifar", tmp_path))
    assert verdict.outcome == "FAILS"
    assert re.search(said, verdict.reason), verdict.reason


def test_what_pre_training_alone_trains_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_own(tmp_path / "own", init=EARLY, more=FIRST.replace(" * FACTOR", ""))
    monkeypatch.setenv(FOLDERS, str(tmp_path / "own"))
    watched = Watched("mine", "cifar", tmp_path)
    assert not [verdict for check in CHECKS if check != "processes" and (verdict := judge(check, watched)).reason]
    assert [len(epoch.terms) for epoch in watched.epochs] == [3, 3]
    assert all("method.early.weight" in trained(epoch.run) for epoch in watched.epochs)


def test_an_average_that_is_saved_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_own(tmp_path / "own", more=SAVED, loss=FOLLOW)
    monkeypatch.setenv(FOLDERS, str(tmp_path / "own"))
    watched = Watched("mine", "cifar", tmp_path)
    verdicts = [judge(check, watched) for check in CHECKS if check != "processes"]
    assert [verdict for verdict in verdicts if verdict.outcome != "ok"] == []


def test_a_method_without_a_teacher_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_own(tmp_path / "own", loss="return {'ce': ce + self.head(student.penultimate).square().mean()}")
    path.write_text(path.read_text().replace(', teacher={"logits"}', "").replace("mine = (ours - teacher.l", "# "))
    monkeypatch.setenv(FOLDERS, str(tmp_path / "own"))
    watched = Watched("mine", "cifar", tmp_path)
    verdicts = [judge(check, watched) for check in ("losses", "state", "resume", "weights", "repeat")]
    assert [verdict for verdict in verdicts if verdict.outcome != "ok"] == []


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


def test_every_check_is_broken_by_some_method() -> None:
    assert {check for check, _, _ in BROKEN} == set(CHECKS)
    assert all(check.what and check.remedy for check in CHECKS.values())


def test_the_command_says_what_fails_and_what_to_do(typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(PAIRS, "vit>cnn")
    write_own(Path("own"), loss='mine = mine * float("nan")')
    code, out, err = typed("--methods", "own", "validate", "MINE")
    assert (code, err) == (1, "")
    assert re.match(r"mine, version 1, file mine\.py sha256:[0-9a-f]{8}, in steps of a few images", out)
    assert re.search(r"^losses +Every term of the loss .* FAILS +FAILS *$", out, flags=re.MULTILINE)
    assert re.search(r"^recipe +The recipe file fits the settings +ok *$", out, flags=re.MULTILINE)
    assert "FAILS, losses on cifar, timm: term mine is nan in step 1\n    Return a dict of scalars; guard" in out
    assert re.search(r"^5 of 17 checks fail$", out, flags=re.MULTILINE)


def test_checks_on_some_pairs_say_so(typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(PAIRS, "vit>cnn")
    refusal = 'if setup.student.name != "resnet8":\n    raise ValueError("only resnet8")'
    write_own(Path("own"), init=refusal)
    code, out, _ = typed("--methods", "own", "validate", "mine")
    assert (code, out.splitlines()[-1]) == (0, "all 17 checks passed on 1 of 2 pairs only")


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
        assert out.endswith("\n1 of 17 checks fails; the others could not be run\n")


def test_verdicts_become_a_table_and_remarks() -> None:
    verdicts = [
        Verdict("losses", "cifar", "ok"),
        Verdict("gradients", "cifar", "FAILS", "a gets no gradient", "Use it."),
        Verdict("gradients", "timm", "FAILS", "a gets no gradient", "Use it."),
        Verdict("one image", "cifar", "refused", "one is too few"),
        Verdict("losses", "vit>cnn", "refused", "no stages"),
    ]
    table = {row["check"]: row for row in rows(verdicts)}
    assert [table["losses"][pair] for pair in PAIRS] == ["ok", "", "refused"]
    assert (table["gradients"]["timm"], table["seeds"]["vit>cnn"]) == ("FAILS", "refused")
    assert list(remarks(verdicts)) == [
        "FAILS, gradients on cifar, timm: a gets no gradient",
        "    Use it.",
        "refused, one image on cifar: one is too few",
        "refused, vit>cnn: no stages",
    ]
