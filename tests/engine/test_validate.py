"""``kdbench validate``: every check finds a method that breaks it, and says what was seen and what to do."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from own_files import write_own

from kdbench.engine.checks.epoch import trained
from kdbench.engine.checks.small import PAIRS
from kdbench.engine.checks.table import CHECKS
from kdbench.engine.checks.validate import judge
from kdbench.engine.checks.verdicts import Verdict, remarks, rows
from kdbench.engine.checks.watched import Watched
from kdbench.experiment import own_folders

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

COUNT = 'self.register_buffer("count", torch.zeros(()))'

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
    ("memory", {"init": COUNT, "loss": "self.count.add_(1)"}, r"^loss\(\) changes method\.count$"),
    ("memory", {"loss": "self.head.bias.data.mul_(0.9)"}, r"^loss\(\) changes method\.head\.bias$"),
    (
        "memory",
        {"init": f"{EARLY}\n{COUNT}", "more": f"FACTOR = 1{FIRST}".replace("* FACTOR", "+ 0 * self.count.add_(1)")},
        r"^loss\(\) changes method\.count of pre-training$",
    ),
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
    ("no waiting", {"loss": "ce = ce * mine.item()"}, r"mine\.py, line 36: Waits: it waits for the value of a tensor"),
    ("no waiting", {"loss": "ce = ce * len(ours.tolist())"}, r"line 36: Waits: it waits for the value of a tensor"),
    ("no waiting", {"loss": "ours.detach().numpy()"}, r"line 36: Waits: it waits for the value of a tensor"),
    ("no waiting", {"loss": "ce = ours[ours > 0].mean()"}, r"line 36: Waits: it waits for a shape that depends on"),
    ("no waiting", {"loss": "ce = ce if mine > 0 else -ce"}, r"line 36: Waits: it waits for the value of a tensor"),
    (
        "no waiting",
        {"loss": "ce = ours[ours.argmax(dim=1).unique()].sum()"},
        r"line 36: Waits: it waits for a shape that depends on",
    ),
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
    monkeypatch.setenv(own_folders.METHODS, str(tmp_path / "own"))
    verdict = judge(check, Watched("mine", "cifar", tmp_path))
    assert verdict.outcome == "FAILS"
    assert re.search(said, verdict.reason), verdict.reason


def test_what_pre_training_alone_trains_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_own(tmp_path / "own", init=EARLY, more=FIRST.replace(" * FACTOR", ""))
    monkeypatch.setenv(own_folders.METHODS, str(tmp_path / "own"))
    watched = Watched("mine", "cifar", tmp_path)
    assert not [verdict for check in CHECKS if check != "processes" and (verdict := judge(check, watched)).reason]
    assert [len(epoch.terms) for epoch in watched.epochs] == [3, 3]
    assert all("method.early.weight" in trained(epoch.run) for epoch in watched.epochs)


def test_an_average_that_is_saved_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_own(tmp_path / "own", more=SAVED, loss=FOLLOW)
    monkeypatch.setenv(own_folders.METHODS, str(tmp_path / "own"))
    watched = Watched("mine", "cifar", tmp_path)
    verdicts = [judge(check, watched) for check in CHECKS if check != "processes"]
    assert [verdict for verdict in verdicts if verdict.outcome != "ok"] == []


def test_what_is_written_once_a_batch_and_batch_norms_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remember = "def remember(self, rows):\n    self.count.add_(rows['one'].sum())"
    keeps = f"{COUNT}\nself.norm = nn.BatchNorm1d(setup.student.num_classes)"
    loss = "return {'ce': ce, 'mine': self.norm(ours).square().mean()}, {'one': torch.ones(1)}"
    write_own(tmp_path / "own", init=keeps, more=remember, loss=loss)
    monkeypatch.setenv(own_folders.METHODS, str(tmp_path / "own"))
    watched = Watched("mine", "cifar", tmp_path)
    assert judge("memory", watched) == Verdict("memory", "cifar", "ok")
    assert [float(epoch.run.method.count) for epoch in watched.epochs] == [3]


def test_a_method_without_a_teacher_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_own(tmp_path / "own", loss="return {'ce': ce + self.head(student.penultimate).square().mean()}")
    path.write_text(path.read_text().replace(', teacher={"logits"}', "").replace("mine = (ours - teacher.l", "# "))
    monkeypatch.setenv(own_folders.METHODS, str(tmp_path / "own"))
    watched = Watched("mine", "cifar", tmp_path)
    verdicts = [judge(check, watched) for check in ("losses", "state", "resume", "weights", "repeat")]
    assert [verdict for verdict in verdicts if verdict.outcome != "ok"] == []


def test_every_check_is_broken_by_some_method() -> None:
    assert {check for check, _, _ in BROKEN} == set(CHECKS)
    assert all(check.what and check.remedy for check in CHECKS.values())


def test_verdicts_become_a_table_and_remarks() -> None:
    verdicts = [
        Verdict("losses", "cifar", "ok"),
        Verdict("gradients", "cifar", "FAILS", "a gets no gradient", "Use it."),
        Verdict("gradients", "timm", "FAILS", "a gets no gradient", "Use it."),
        Verdict("one image", "cifar", "refused", "one is too few"),
        Verdict("losses", "vit>cnn", "refused", "no stages"),
    ]
    table = {row["check"]: row for row in rows(verdicts, CHECKS, list(PAIRS))}
    assert [table["losses"][pair] for pair in PAIRS] == ["ok", "", "refused"]
    assert (table["gradients"]["timm"], table["seeds"]["vit>cnn"]) == ("FAILS", "refused")
    assert list(remarks(verdicts, CHECKS)) == [
        "FAILS, gradients on cifar, timm: a gets no gradient",
        "    Use it.",
        "refused, one image on cifar: one is too few",
        "refused, vit>cnn: no stages",
    ]
