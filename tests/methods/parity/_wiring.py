"""What adapters share: inputs as leaves, weights by their stored names, and the task's terms with every gradient."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from parity_files import Case
from random_outputs import total
from stub_nets import stub_batch, stub_net, stub_setup
from torch import Tensor, nn

from kdbench.functional import cross_entropy
from kdbench.method import Method
from kdbench.methods.kd import kl_per_image
from kdbench.net import Net, Outputs

__all__ = ["cross_entropy", "kl_per_image", "total"]

Values = Iterator[tuple[str, Tensor | float]]
"""Names of stored arrays, each with what this code computes."""
SAME = {"": ""}
"""Prefixes of parameter names where ours are the stored ones."""


def stored_name(key: str, names: dict[str, str]) -> str:
    """The stored name of an entry of our state dict; ``names`` maps our prefixes to the stored ones."""
    ours = next(prefix for prefix in sorted(names, reverse=True) if key.startswith(prefix))
    return names[ours] + key.removeprefix(ours)


def load_weights(case: Case, module: nn.Module, names: dict[str, str] = SAME) -> None:
    """Fill a module from ``w.*`` and ``buf_before.*``, each of which must have a place in it."""
    stored = case.group("w.") | case.group("buf_before.")
    state = {key: stored.pop(stored_name(key, names)) for key in module.state_dict()}
    assert not stored, f"{case.name}: {sorted(stored)} have no place in the module"
    module.load_state_dict(state)


def weight_leaves(module: nn.Module, names: dict[str, str] = SAME) -> dict[str, Tensor]:
    """Parameters under the names of the stored gradients, ``w.*``."""
    return {f"w.{stored_name(key, names)}": parameter for key, parameter in module.named_parameters()}


def gradients(leaves: dict[str, Tensor], prefix: str = "grad.") -> Values:
    """The gradient of each leaf; one that is not in the graph has zeros."""
    for name, leaf in leaves.items():
        yield prefix + name, torch.zeros_like(leaf) if leaf.grad is None else leaf.grad


def state(module: nn.Module, names: dict[str, str] = SAME, prefix: str = "buf_after1.") -> Values:
    for key, value in module.state_dict().items():
        yield prefix + stored_name(key, names), value


def logit_sides(case: Case) -> tuple[Tensor, Tensor, Tensor]:
    """The student's logits, the teacher's and the labels."""
    return case.tensor("in.logits_s", grad=True), case.tensor("in.logits_t"), case.tensor("in.target")


def levels(case: Case, prefix: str, first: int = 1, *, grad: bool = False) -> dict[str, Tensor]:
    """Stages up to 3, by stored name."""
    return {f"{prefix}.{i}": case.tensor(f"in.{prefix}.{i}", grad=grad) for i in range(first, 4)}


def net_of(maps: list[Tensor] | None = None, **more: Any) -> Net:
    return stub_net(shapes=[tuple(m.shape[1:]) for m in maps or []], **more)


def view_major(rows: Tensor, views: int) -> Tensor:
    """Rows of a sample-major file in the order of ``Outputs``; keeps the graph."""
    return rows.view(-1, views, *rows.shape[1:]).transpose(0, 1).flatten(0, 1)


def sample_major(rows: Tensor, views: int) -> Tensor:
    """Rows in the order of the files, whose views of an image stand together."""
    return rows.view(views, -1, *rows.shape[1:]).transpose(0, 1).flatten(0, 1)


def task_settings(case: Case) -> dict[str, Any]:
    """Weights of the cross entropy and of KD's divergence, and its temperature where the file has one."""
    stored = {"ce_weight": "hp.ce_weight", "kd_weight": "hp.kl_weight", "kd_temperature": "hp.kl_T"}
    return {ours: case.value(theirs) for ours, theirs in stored.items() if theirs in case.arrays}


def method_weight(case: Case) -> float:
    """Weight of the method's term."""
    return case.value("hp.feat_weight" if "hp.feat_weight" in case.arrays else "hp.kd_weight")


def task(case: Case, terms: dict[str, Tensor], leaves: dict[str, Tensor]) -> Values:
    """Cross entropy, divergence, total and the gradient of every leaf."""
    logits, teacher, targets = leaves["logits_s"], case.tensor("in.logits_t"), case.tensor("in.target")
    yield "out.ce", cross_entropy(logits, targets).mean()
    if "hp.kl_T" in case.arrays:
        yield "out.kl", kl_per_image(logits, teacher, case.value("hp.kl_T")).mean()
    loss = total(terms)
    yield "out.total", loss
    loss.backward()
    yield from gradients(leaves)


def terms_of_logits(case: Case, kind: type[Method], config: Any, logits: Tensor, epoch: int = 1) -> dict[str, Tensor]:
    """The terms of a method that reads logits alone."""
    net = net_of(num_classes=logits.shape[1])
    both = Outputs("student", logits=logits), Outputs("teacher", logits=case.tensor("in.logits_t"))
    return kind(config, stub_setup(net, net)).loss(*both, stub_batch(case.tensor("in.target"), epoch=epoch))


class Sides:
    """A file's two networks: leaves by the names of the stored gradients, and what each network puts out."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.leaves: dict[str, Tensor] = {}
        self.outputs: list[Outputs] = []
        self.nets: list[Net] = []
        for side, owner in (("s", "student"), ("t", "teacher")):
            inputs = {
                key: case.tensor(f"in.{key}", grad=side == "s")
                for key in sorted(k.removeprefix("in.") for k in case.arrays if k.startswith("in."))
                if key.endswith(f"_{side}") or f"_{side}." in key
            }
            self.leaves |= inputs
            stages = tuple(value for key, value in inputs.items() if key.startswith("feats_"))
            logits, pooled = inputs[f"logits_{side}"], inputs.get(f"pooled_{side}")
            self.outputs.append(Outputs(owner, logits=logits, penultimate=pooled, stages=stages))
            width = 8 if pooled is None else pooled.shape[1]
            self.nets.append(net_of(list(stages), width=width, num_classes=logits.shape[1]))

    @property
    def stages(self) -> list[tuple[Tensor, Tensor]]:
        return list(zip(self.outputs[0].stages, self.outputs[1].stages, strict=True))

    @property
    def pooled(self) -> tuple[Tensor, Tensor]:
        return self.outputs[0].penultimate, self.outputs[1].penultimate

    def method(self, kind: type[Method], names: dict[str, str] = SAME, **config: Any) -> Method:
        """The method with these settings and the stored weights."""
        built = kind(kind.Config(**task_settings(self.case), **config), stub_setup(self.nets[0], self.nets[1]))
        load_weights(self.case, built.to(self.case.dtype), names)
        return built

    def task(self, method: Method, names: dict[str, str] = SAME) -> Values:
        """Total, cross entropy, divergence and every stored gradient."""
        terms = method.loss(self.outputs[0], self.outputs[1], stub_batch(self.case.tensor("in.target")))
        return task(self.case, terms, self.leaves | weight_leaves(method, names))
