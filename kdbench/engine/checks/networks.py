"""Puts a network through the checks of networks, each by its name: what must hold, and what to do if it does not."""

from __future__ import annotations

from collections.abc import Callable

import torch

from kdbench.engine.checks import network_rules as rules
from kdbench.engine.checks.network_rules import Sized
from kdbench.engine.checks.rules import Broken
from kdbench.engine.checks.table import Check
from kdbench.engine.checks.verdicts import Verdict
from kdbench.errors import UserError
from kdbench.models import own_network
from kdbench.net import Net
from kdbench.utils.text import counted, one_line

SIZES = {"32x32": (32, 32), "64x64": (64, 64), "16x16": (16, 16), "40x56": (40, 56)}
"""Heights and widths of the images; a network that takes none of them is looked at where images are large."""
LARGE = {"224x224": (224, 224)}

CHECKS: dict[str, Check[Sized]] = {
    "shapes": Check(
        holds=rules.shapes,
        what="Logits, features and maps have the shapes that methods are told",
        remedy="Return logits (B, K) for any number B of images, and name stages that give one map an image.",
    ),
    "gradients": Check(
        holds=rules.gradients,
        what="Every trained parameter gets a finite gradient",
        remedy="Use it in forward(), drop it, or make it a buffer; a .detach() or no_grad() may stand in the way.",
    ),
    "apart": Check(
        holds=rules.apart,
        what="In an evaluation, each image is seen by itself",
        remedy="Compute statistics over the batch in training only (self.training), as nn.BatchNorm2d does.",
    ),
    "one image": Check(
        holds=rules.one_image,
        what="A batch of one image trains",
        remedy=(
            "The last batch of an epoch may be one image: no batch norm over one value (after the mean over positions, "
            "or on a map of 1x1), and no squeeze() without a dimension."
        ),
    ),
    "repeat": Check(
        holds=rules.repeat,
        what="A seed decides the initial weights and what a batch gives",
        remedy=(
            "Draw random numbers with torch (not with random or numpy), seed nothing, and draw in forward() only if "
            "self.training."
        ),
    ),
    "channels last": Check(
        holds=rules.channels_last,
        what="The memory format channels_last gives the same",
        remedy="Use flatten() or reshape() in place of view().",
    ),
    "state": Check(
        holds=rules.state,
        what="Saved weights give the same logits in a fresh network",
        remedy="Keep what is computed with in parameters and buffers (register_buffer), which state_dict() holds.",
    ),
    "copies": Check(
        holds=rules.copies,
        what="A copy computes the same, by itself",
        remedy="Keep modules and tensors as attributes of self, not in globals, closures or lambdas.",
    ),
    "bf16": Check(
        holds=rules.bf16,
        what="Training in bfloat16 is finite",
        remedy="Let autocast choose: give new tensors the dtype of what they meet (x.new_zeros(...)).",
    ),
    "devices": Check(
        holds=rules.devices,
        what="Two processes train it as one does",
        remedy="Build the same network in every process, and keep nothing that depends on the process.",
        every_pair=False,
    ),
    "cuda": Check(
        holds=rules.cuda,
        what="A GPU computes what the CPU does",
        remedy="Make new tensors on the device of what they meet (device=x.device), and keep others as buffers.",
        every_pair=False,
    ),
}
"""Every check by its name, in order."""


def validate(network: str, observe: Callable[[str], None] = lambda _: None) -> list[Verdict]:
    """Run all checks on images of every size that the network takes.

    Parameters
    ----------
    network
        Its canonical name.
    observe
        Called with what is done next.
    """
    verdicts: list[Verdict] = []
    once = True
    for column, size in (SIZES | LARGE).items():
        if column in LARGE and not once:
            continue
        sized = Sized(network, size)
        observe(f"building for {column}")
        try:
            _ = sized.net
        except UserError as error:
            reason = str(error).removesuffix(f"; with images of {column}")
            verdicts.append(Verdict(next(iter(CHECKS)), column, "refused", reason))
            continue
        for name, check in CHECKS.items():
            if (check.every_pair or once) and (name != "cuda" or torch.cuda.is_available()):
                observe(f"{name} on {column}")
                verdicts.append(_judge(name, column, sized))
        once = False
    return verdicts


def parts_of(network: str, verdicts: list[Verdict]) -> list[str]:
    """Describe in lines what methods can read of a network, on images of the first size that it takes."""
    column = next((verdict.pair for verdict in verdicts if verdict.outcome != "refused"), None)
    if column is None:
        return []
    net = Sized(network, (SIZES | LARGE)[column]).net
    stages = ", ".join("x".join(map(str, shape)) for shape in net.shapes)
    return [
        f"{column}: stages {stages}; penultimate {net.width}; {counted(_num_parameters(net), 'parameter')}",
        *(f"no {part}: {reason}" for part, reason in net.absent.items()),
    ]


def _num_parameters(net: Net) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def _judge(name: str, column: str, sized: Sized) -> Verdict:
    check = CHECKS[name]
    try:
        check.holds(sized)
    except (Broken, UserError) as failure:
        return Verdict(name, column, "FAILS", str(failure), check.remedy)
    except Exception as error:
        source = own_network(sized.network)
        reason = source.place_of(error) if source else f"{type(error).__name__}: {one_line(error)}"
        return Verdict(name, column, "FAILS", reason, check.remedy)
    return Verdict(name, column, "ok")
