"""Fuse the batch norms of a frozen network into its convolutions."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.overrides import TorchFunctionMode

from kdbench.models.weights import freeze
from kdbench.net import Net


def fused(net: Net) -> Net:
    """Return a frozen copy in eval mode with the same outputs and, where that is possible, fewer steps.

    A batch norm is fused where its input is the output of a convolution that nothing else reads. One forward pass
    shows what reads what, so that any network will do; other layers stay as they are. So does a whole network whose
    outputs change, because it reads a layer's values in a way of its own.
    """
    plain = freeze(copy.deepcopy(net))
    candidate = copy.deepcopy(plain)
    images = torch.rand(2, 3, *net.image_size, generator=torch.Generator().manual_seed(0)).to(net.mean)
    with torch.no_grad():
        before = _outputs(plain, images)
        try:
            _fuse(candidate)
            after = _outputs(candidate, images)
        except (AttributeError, RuntimeError, TypeError):
            return plain
    equal = all(
        torch.allclose(a, b, rtol=1e-3, atol=1e-3 * float(b.abs().max())) for a, b in zip(after, before, strict=True)
    )
    return candidate if equal else plain


def _outputs(net: Net, images: Tensor) -> list[Tensor]:
    features = net.backbone.features(images, maps=True)
    return list(_tensors((features.penultimate, features.stem, features.stages, features.preact, features.map)))


def _fuse(net: Net) -> None:
    with _Readers() as readers:
        features = net.backbone.features(torch.zeros_like(net.mean).expand(1, 3, *net.image_size), maps=True)
    readers.read((features.penultimate, features.stem, features.stages, features.preact, features.map))
    names = {id(module): name for name, module in net.backbone.named_modules()}
    convs = {id(m.weight): m for m in net.backbone.modules() if type(m) is nn.Conv2d}
    norms = {id(m.running_mean): m for m in net.backbone.modules() if type(m) is nn.BatchNorm2d}
    for weight, running_mean in readers.pairs():
        if weight in convs and running_mean in norms:
            conv, norm = convs[weight], norms[running_mean]
            net.backbone.set_submodule(names[id(conv)], fuse_conv_bn_eval(conv, norm))
            net.backbone.set_submodule(names[id(norm)], nn.Identity())


@final
class _Readers(TorchFunctionMode):
    """Notes which convolution made which tensor, which batch norm reads it, and how often a tensor is read."""

    def __init__(self) -> None:
        super().__init__()
        self._alive: list[Any] = []  # an id means one tensor only while all live
        self._reads: Counter[int] = Counter()
        self._made_by: dict[int, int] = {}
        self._normed_by: dict[int, int] = {}
        self._calls: Counter[int] = Counter()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if any(True for _ in _tensors(result)):
            self._alive.append((args, kwargs, result))
            self.read((*args, *(kwargs or {}).values()))
        if func is torch.conv2d:
            self._made_by[id(result)] = id(args[1])
            self._calls[id(args[1])] += 1
        elif func is functional.batch_norm:
            self._normed_by[id(args[0])] = id(args[1])
            self._calls[id(args[1])] += 1
        return result

    def read(self, values: Any) -> None:
        """Count the tensors in ``values`` as read once more."""
        self._reads.update(id(tensor) for tensor in _tensors(values))

    def pairs(self) -> Iterator[tuple[int, int]]:
        """Ids of the weights and running means of a convolution and its one reader, each called once."""
        for made, weight in self._made_by.items():
            norm = self._normed_by.get(made)
            if norm is not None and self._reads[made] == self._calls[weight] == self._calls[norm] == 1:
                yield weight, norm


def _tensors(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _tensors(value)
