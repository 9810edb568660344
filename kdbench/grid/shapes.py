"""Find the sizes of data sets and networks on the meta device, without loading images or allocating weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from kdbench.data import held_out
from kdbench.data.fabricated import shape_of
from kdbench.data.held_out import Division
from kdbench.data.images import DataShape
from kdbench.engine.session import Session
from kdbench.errors import UserError
from kdbench.experiment.pairs import Pair
from kdbench.experiment.protocol import Protocol
from kdbench.grid.grid import Grid
from kdbench.models import build_backbone
from kdbench.net import Backbone, Part
from kdbench.utils.device import autocast
from kdbench.utils.precision import Precision


def data_shape(session: Session) -> DataShape:
    """Return the shape of a session's data set; one that has a name is not loaded."""
    shape = session.given.shape if session.given else shape_of(session.protocol)
    assert shape, "a session names the data of a protocol for images of the user's own"
    return shape


def trained_labels(session: Session, protocol: Protocol) -> Tensor:
    """Return the labels of the images that cells of a protocol train on, int64 ``(N,)``.

    Of a data set that is not loaded, they are those of as many images, dealt out evenly to the classes.
    """
    labels = _all_labels(session)
    return labels[Division.of(labels, protocol.rules.evaluation.validation).trained]


def num_trained(session: Session, protocol: Protocol) -> int:
    """Return the number of images that cells of a protocol train on: a trial of a search holds some out."""
    return held_out.num_trained(_all_labels(session), protocol.rules.evaluation.validation)


def _all_labels(session: Session) -> Tensor:
    data = data_shape(session)
    return session.given.train_labels if session.given else torch.arange(data.num_images) % data.num_classes


@dataclass(frozen=True, slots=True)
class NetShape:
    """The sizes of a network."""

    bytes: int
    """Bytes of its state dict."""
    widths: Mapping[Part, int]
    """Classes, and penultimate features."""
    row: Mapping[Part, int]
    """Bytes in which a cache keeps each part of one view: one value a class, and one for each penultimate feature."""


@final
class _Valueless(TorchFunctionMode):
    """Skip what changes values alone, and for which torch would load its compiler on the meta device, in seconds."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        keywords = kwargs or {}
        if func is nn.init.normal_:
            return keywords["tensor"]
        if func is nn.functional.batch_norm:
            return _scaled(args[0], keywords["weight"], keywords["bias"])
        return func(*args, **keywords)


def _scaled(maps: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """Do of a batch norm what depends on its parameters, so that they are reached where gradients are looked at."""
    if weight is None or bias is None:
        return maps
    shape = (1, -1, *[1] * (maps.ndim - 2))
    return maps * weight.view(shape) + bias.view(shape)


@contextlib.contextmanager
def without_values() -> Iterator[None]:
    """Make tensors and modules on the meta device, without values."""
    with torch.device("meta"), _Valueless():
        yield


def net_shape(network: str, data: DataShape, precision: Precision = "fp32") -> NetShape:
    """Measure the sizes of a network.

    Parameters
    ----------
    precision
        Precision of the forward pass whose outputs are cached. In half precision some outputs of a network have 4
        bytes all the same: it is built and run once to find out which.

    Raises
    ------
    UserError
        The network does not exist, or cannot be built for such images.
    """
    backbone = _build(network, data, valueless=precision == "fp32").eval()
    head = backbone.head()
    size: dict[Part, int] = {"logits": 4, "penultimate": 4}
    if precision != "fp32":
        cpu = torch.device("cpu")
        with torch.inference_mode(), autocast(cpu, precision):
            features = backbone.features(torch.zeros(1, 3, *data.image_size), maps=False).penultimate
            size = {"logits": head(features).element_size(), "penultimate": features.element_size()}
    widths: dict[Part, int] = {"logits": head.out_features, "penultimate": head.in_features}
    return NetShape(
        bytes=sum(values.nbytes for values in backbone.state_dict().values()),
        widths=widths,
        row={part: size[part] * width for part, width in widths.items()},
    )


def forward_flops(network: str, data: DataShape) -> int:
    """Count the multiplications and additions of a network's forward pass of one image, without those of the head.

    Raises
    ------
    UserError
        The network does not exist, or cannot be built for such images.
    """
    backbone = _build(network, data, valueless=True).eval().to_empty(device="cpu")
    images = torch.zeros(1, 3, *data.image_size)
    # Attention is counted where it is computed by matrix products.
    with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        backbone.features(images, maps=False)
    return int(counter.get_total_flops())


def _build(network: str, data: DataShape, *, valueless: bool) -> Backbone:
    if valueless:
        # Some timm networks compute with values while they are built; an unknown name raises again below.
        with contextlib.suppress(UserError, RuntimeError), without_values():
            return build_backbone(network, data.num_classes, data.image_size)
    return build_backbone(network, data.num_classes, data.image_size)


def net_shapes(grid: Grid, data: DataShape) -> dict[str, NetShape]:
    """Measure all networks of a grid, each built once: students by their name, teachers by `GridTeacher.sized`.

    Raises
    ------
    UserError
        A network cannot be used; the text names its pair.
    """
    precision = grid.session.protocol.precision
    networks: dict[str, tuple[Pair, str, DataShape, Precision]] = {}
    for (pair, _), cells in grid.by_row.items():
        for teacher in grid.networks(cells[0]):
            networks.setdefault(teacher.sized, (pair, teacher.ref.network, shape_at(data, teacher.side), precision))
    for pair in grid.file.pairs:
        networks.setdefault(pair.student, (pair, pair.student, data, "fp32"))
    shapes: dict[str, NetShape] = {}
    for key, (pair, network, images, forward_precision) in networks.items():
        try:
            shapes[key] = net_shape(network, images, forward_precision)
        except UserError as error:
            raise UserError(f"{grid.file.path}: pair {pair}: {error}") from None
    return shapes


def shape_at(data: DataShape, side: int | None) -> DataShape:
    """Return the shape of the images that a network of another side is given; the same one for None."""
    return replace(data, image_size=(side, side)) if side else data
