"""What must hold for every network: one function a check, which looks at a network for images of one size.

A function raises ``Broken`` if its rule does not hold; `kdbench.engine.checks.networks` has each rule in words.
"""

from __future__ import annotations

import copy
import dataclasses
import tempfile
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from kdbench.data.datasets import load_dataset
from kdbench.data.place import DataPlace
from kdbench.engine.checks.rules import Broken
from kdbench.engine.checks.small import CPU, tiny_protocol
from kdbench.engine.session import Session
from kdbench.errors import UserError
from kdbench.experiment.folder import WEIGHTS
from kdbench.models import build_backbone
from kdbench.models.build import build_net
from kdbench.models.weights import load_weights, read_weights, save_weights, weights_hash
from kdbench.net import PARTS, Net, Outputs
from kdbench.utils.streams import seeded
from kdbench.utils.text import one_line

NUM_CLASSES = 7
_NUM_IMAGES = 5
_ROUNDING = 0.02
"""Of what training changes: how far two orders of summation may lead apart."""
_SEVERAL_NUM_CLASSES = 3
"""Of the data on which several devices train."""


@final
class Sized:
    """A network for images of one size.

    Parameters
    ----------
    network
        Its canonical name.
    size
        Height and width of the images.
    """

    def __init__(self, network: str, size: tuple[int, int]) -> None:
        self.network, self.size = network, size
        self.images = torch.rand(_NUM_IMAGES, 3, *size, generator=torch.Generator().manual_seed(1))
        self.labels = torch.arange(_NUM_IMAGES) % NUM_CLASSES

    def build(self, seed: int = 1) -> Net:
        """Build it with fresh weights.

        Raises
        ------
        UserError
            It does not take such images.
        """
        with seeded(seed, "init", "student"):
            backbone = build_backbone(self.network, NUM_CLASSES, self.size)
            return Net(self.network, backbone, mean=(0.5,) * 3, std=(0.25,) * 3, image_size=self.size)

    @cached_property
    def net(self) -> Net:
        """The network in eval mode, which checks leave as it is."""
        return self.build().eval()

    def trained(self) -> Net:
        """Return a network after one step of training, in eval mode."""
        net = self.build()
        with seeded(1, "step"):
            nn.functional.cross_entropy(net.logits(self.images), self.labels).backward()
        with torch.no_grad():
            for parameter in net.parameters():
                if parameter.grad is not None:
                    parameter.sub_(0.1 * parameter.grad)
        return net.eval()


def shapes(sized: Sized) -> None:
    """Raise Broken unless logits, features and maps have the shapes that methods are told, and are finite."""
    net = sized.net
    outputs = _outputs(net, sized.images)
    expected = {"logits": (NUM_CLASSES,), "penultimate": (net.width,), "map": net.map_shape, "stem": net.stem_shape}
    expected |= {f"stages[{number}]": shape for number, shape in enumerate(net.shapes)}
    for name, value in _tensors(outputs).items():
        wanted = expected.get(name)
        if wanted and tuple(value.shape) != (_NUM_IMAGES, *wanted):
            raise Broken(f"{name} of {_NUM_IMAGES} images is {tuple(value.shape)}, not {(_NUM_IMAGES, *wanted)}")
        if not value.isfinite().all():
            raise Broken(f"{name} is not finite")
        if value.dtype != torch.float32:
            raise Broken(f"{name} is {value.dtype}, not torch.float32")


def gradients(sized: Sized) -> None:
    """Raise Broken unless the gradient of a loss reaches every parameter that is trained, and is finite."""
    net = sized.build()
    nn.functional.cross_entropy(net.logits(sized.images), sized.labels).backward()
    parameters = {name.removeprefix("backbone."): p for name, p in net.named_parameters() if p.requires_grad}
    if not parameters:
        raise Broken("no parameter is trained")
    if missing := [name for name, parameter in parameters.items() if parameter.grad is None]:
        raise Broken(f"{_listed(missing)} get{'s' if len(missing) == 1 else ''} no gradient")
    if wrong := [name for name, p in parameters.items() if p.grad is not None and not p.grad.isfinite().all()]:
        raise Broken(f"the gradient of {_listed(wrong)} is not finite")


def apart(sized: Sized) -> None:
    """Raise Broken unless an evaluation sees each image by itself."""
    together = _logits(sized.net, sized.images)
    alone = torch.cat([_logits(sized.net, image[None]) for image in sized.images])
    if not _alike(alone, together):
        raise Broken("in an evaluation, the logits of an image depend on the other images of the batch")


def one_image(sized: Sized) -> None:
    """Raise Broken unless a batch of one image trains."""
    logits = sized.build().logits(sized.images[:1])
    if not logits.isfinite().all():
        raise Broken("the logits of a batch of one image are not finite in training")


def repeat(sized: Sized) -> None:
    """Raise Broken unless a seed decides the weights, and what a batch gives."""
    first, again = (sized.build() for _ in range(2))
    if weights_hash(first.state_dict()) != weights_hash(again.state_dict()):
        raise Broken("two networks of one seed have other initial weights")
    if weights_hash(sized.build(seed=2).state_dict()) == weights_hash(first.state_dict()):
        raise Broken("seeds 1 and 2 give the same initial weights")
    if not torch.equal(*(_logits(sized.net, sized.images) for _ in range(2))):
        raise Broken("two evaluations of one batch differ")
    values = []
    for net in (first, again):
        with seeded(1, "step"), torch.no_grad():
            values.append(net.logits(sized.images))
    if not torch.equal(*values):
        raise Broken("two training passes of one seed differ")


def channels_last(sized: Sized) -> None:
    """Raise Broken unless images with their channels last give the same logits."""
    net = copy.deepcopy(sized.net).to(memory_format=torch.channels_last)
    logits = _logits(net, sized.images.to(memory_format=torch.channels_last))
    if not _alike(logits, _logits(sized.net, sized.images)):
        raise Broken("images in the memory format torch.channels_last give other logits")


def state(sized: Sized) -> None:
    """Raise Broken unless the saved weights of a trained network, in a fresh one, give its logits."""
    trained, fresh = sized.trained(), sized.build(seed=2)
    with tempfile.TemporaryDirectory(prefix="kdbench-") as folder:
        save_weights(Path(folder) / WEIGHTS, trained)
        load_weights(fresh, read_weights(Path(folder) / WEIGHTS), "the saved file")
    if not torch.equal(_logits(fresh.eval(), sized.images), _logits(trained, sized.images)):
        raise Broken("saved weights, loaded into a fresh network, give other logits")


def copies(sized: Sized) -> None:
    """Raise Broken unless a copy computes the same, by itself."""
    copied = copy.deepcopy(sized.net)
    before = _logits(sized.net, sized.images)
    if not torch.equal(_logits(copied, sized.images), before):
        raise Broken("a copy (copy.deepcopy) gives other logits")
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.zero_()
    changed = _tensors(_outputs(copied, sized.images))
    if not torch.equal(_logits(sized.net, sized.images), before):
        raise Broken("a change of a copy changes the network")
    if torch.equal(changed["logits"], before):
        raise Broken("a change of a copy's weights does not change its logits")


def bf16(sized: Sized) -> None:
    """Raise Broken unless it trains in bfloat16."""
    net = sized.build()
    with torch.autocast("cpu", torch.bfloat16):
        logits = net.logits(sized.images)
    nn.functional.cross_entropy(logits.float(), sized.labels).backward()
    if not all(p.grad.isfinite().all() for p in net.parameters() if p.grad is not None):
        raise Broken("gradients are not finite in bfloat16")


def devices(sized: Sized) -> None:
    """Raise Broken unless two processes train it to the weights that one trains it to, up to rounding."""
    height, width = sized.size
    generator = np.random.default_rng(5)
    with tempfile.TemporaryDirectory(prefix="kdbench-") as scratch:
        arrays: dict[str, npt.NDArray[Any]] = {}
        for split, num in (("train", 32), ("test", 8)):
            arrays[f"{split}_images"] = generator.integers(0, 256, (num, height, width, 3), dtype=np.uint8)
            arrays[f"{split}_labels"] = np.arange(num) % _SEVERAL_NUM_CLASSES
        file = Path(scratch) / "images.npz"
        np.savez(file, **arrays)  # type: ignore[arg-type]
        dataset = load_dataset(f"npz:{file}", Path())
        protocol = tiny_protocol(dataset, group_size=8, epochs=1, learning_rate=0.01, flip=False)
        session = Session(
            protocol=protocol,
            runs=Path(scratch) / "1",
            data=DataPlace.parse(f"npz:{file}"),
            device=CPU,
            given=dataset,
        )
        weights = []
        for number in (1, 2):
            several = dataclasses.replace(session, devices=number, runs=Path(scratch) / str(number))
            cell = several.cell(method=protocol.baseline, student=sized.network, seed=1)
            try:
                several.run(cell)
            except UserError as error:
                raise Broken(f"on {number} device{'s' * (number > 1)}: {one_line(error)}") from None
            weights.append(read_weights(cell.folder(several.runs) / WEIGHTS))
    net = build_net(sized.network, protocol, dataset, seed=1, purpose="student")
    initial = {name: value for name, value in net.backbone.named_parameters() if value.requires_grad}
    one, two = (_norm_between(initial.keys(), weights[0], other) for other in (initial, weights[1]))
    if not two <= _ROUNDING * one:
        raise Broken("two processes train it to other weights than one")


def cuda(sized: Sized) -> None:
    """Raise Broken unless a GPU computes what the CPU does, and trains."""
    net, images = sized.build().cuda(), sized.images.cuda()
    nn.functional.cross_entropy(net.logits(images), sized.labels.cuda()).backward()
    if not all(p.grad.isfinite().all() for p in net.parameters() if p.grad is not None):
        raise Broken("gradients are not finite on a GPU")
    fresh = sized.build().eval().cuda()
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        logits = _logits(fresh, images).cpu()
    if not torch.allclose(logits, _logits(sized.net, sized.images), rtol=1e-2, atol=1e-3):
        raise Broken("a GPU gives other logits than the CPU")


def _outputs(net: Net, images: Tensor) -> Outputs:
    with torch.no_grad():
        outputs: Outputs = net(images, PARTS)
    return outputs


def _logits(net: Net, images: Tensor) -> Tensor:
    with torch.no_grad():
        return net.logits(images)


def _tensors(outputs: Outputs) -> Mapping[str, Tensor]:
    """Return the parts of outputs by their names, a list of maps as one entry each."""
    tensors: dict[str, Tensor] = {}
    for name, value in outputs.parts().items():
        tensors |= {f"{name}[{i}]": each for i, each in enumerate(value)} if isinstance(value, tuple) else {name: value}
    return tensors


def _norm_between(names: Iterable[str], first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> float:
    """Return the norm of the difference of what has these names in two states."""
    return float(torch.stack([(first[name] - second[name]).detach().square().sum() for name in names]).sum().sqrt())


def _alike(first: Tensor, second: Tensor) -> bool:
    """Return whether values are equal up to the rounding of two kernels."""
    return torch.allclose(first.float(), second.float(), rtol=1e-3, atol=1e-4)


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
