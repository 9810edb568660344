"""Save, read, load and hash the weights of networks."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from kdbench.errors import UserError
from kdbench.net import Net
from kdbench.utils.files import write_atomic
from kdbench.utils.text import counted, one_line

COUNTER = "num_batches_tracked"
"""How the entries end that count a batch norm's batches; torch 0.4.0 did not save them."""


def weights_hash(weights: dict[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes of a state dict, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def save_weights(path: Path, net: Net, *, permit: Callable[[], None] = lambda: None) -> str:
    """Save a network's weights as safetensors, atomically; return their hash."""
    weights = {k: v.detach().cpu().contiguous().clone() for k, v in net.backbone.state_dict().items()}
    write_weights(path, weights, net.name, permit=permit)
    return weights_hash(weights)


def write_weights(
    path: Path, weights: dict[str, Tensor], network: str, *, permit: Callable[[], None] = lambda: None
) -> None:
    """Write the weights of a network as safetensors, atomically."""
    write_atomic(path, safetensors.torch.save(weights, metadata={"network": network}), permit=permit)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read weights that :func:`save_weights` has saved.

    Raises
    ------
    UserError
        The file is missing or damaged.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing")
    try:
        return safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError, ValueError, KeyError) as error:
        raise UserError(f"{path} is damaged ({one_line(error)})") from None


def load_weights(net: Net, weights: Mapping[str, Tensor], origin: str, names: Mapping[str, str] | None = None) -> None:
    """Load weights into a network.

    Parameters
    ----------
    weights
        By the names of the network's entries. Counters of batches, which only training reads, may be missing.
    names
        How the file calls entries, where that is not as the network does.

    Raises
    ------
    UserError
        The weights are those of another network or number of classes, or they are not finite numbers.
    """
    expected = net.backbone.state_dict()
    names = names or {}
    if misfit := describe_misfit(net, weights, names):
        raise UserError(f"{origin} is no {net.name} with {counted(net.num_classes, 'class')}: {misfit}")
    for name, value in weights.items():
        if not name.endswith(COUNTER) and (reason := _unusable(value, expected[name])):
            raise UserError(f"{origin} cannot be used: entry {names.get(name, name)} {reason}")
    entries = {name: value for name, value in weights.items() if not name.endswith(COUNTER) or _is_counter(value)}
    net.backbone.load_state_dict(expected | entries)


def describe_misfit(net: Net, weights: Mapping[str, Tensor], names: Mapping[str, str]) -> str:
    """Say how weights do not fit a network, and what to type; empty where they do."""
    expected = net.backbone.state_dict()
    shapes = sorted(k for k in expected.keys() & weights.keys() if expected[k].shape != weights[k].shape)
    missing = sorted(k for k in expected.keys() - weights.keys() if not k.endswith(COUNTER))
    extra = sorted(weights.keys() - expected.keys())
    if not (missing or extra or shapes):
        return ""
    if (classes := other_classes(net, weights)) is not None:
        return (
            f"it has {counted(classes, 'class')}. Name the right data set with --protocol, or with --data where it is "
            "a file; 'kdbench teacher train --from' trains such weights for other classes"
        )
    parts = [
        f"{len(entries)} {what} ({names.get(entries[0], entries[0])}{', ...' if len(entries) > 1 else ''})"
        for entries, what in ((missing, "missing"), (extra, "unknown"), (shapes, "of another shape"))
        if entries
    ]
    return f"entries {'; '.join(parts)}. Name the right network with --network, or the right data set with --protocol"


def other_classes(net: Net, weights: Mapping[str, Tensor]) -> int | None:
    """Return how many classes weights are for that fit a network but for its classifier; None for all others."""
    expected = net.backbone.state_dict()
    differing = {k for k in expected if k not in weights or expected[k].shape != weights[k].shape}
    differing -= {k for k in differing if k not in weights and k.endswith(COUNTER)}
    if not differing or not differing <= classifier_names(net) & weights.keys() or weights.keys() - expected.keys():
        return None
    classes = {len(weights[k]) if weights[k].ndim else 0 for k in differing}
    return classes.pop() if len(classes) == 1 else None


def own_classifier(net: Net) -> dict[str, Tensor]:
    """Return the weights of a network's classifier, by their names in its backbone."""
    own = net.backbone.state_dict()
    return {name: own[name] for name in classifier_names(net)}


def classifier_names(net: Net) -> set[str]:
    """Return the names of the classifier's entries in the backbone's state dict."""
    head = net.backbone.head()
    return {name for name, value in net.backbone.named_parameters() if value is head.weight or value is head.bias}


def _is_counter(value: Tensor) -> bool:
    """Return whether a counter can be loaded: averaged ones are no whole numbers, and nothing depends on them."""
    return not (value.is_meta or value.is_floating_point() or value.is_complex() or value.layout != torch.strided)


def _unusable(value: Tensor, expected: Tensor) -> str:
    """Say why an entry of the right shape cannot be one of the network's; empty where it can."""
    if value.is_meta:
        return "has no values (it is a meta tensor)"
    if value.layout != torch.strided or value.is_quantized:
        return f"is {'quantized' if value.is_quantized else 'sparse'}: make it a plain tensor"
    if value.is_floating_point() != expected.is_floating_point() or value.is_complex():
        return f"holds {str(value.dtype).removeprefix('torch.')}, not {str(expected.dtype).removeprefix('torch.')}"
    if not value.to(expected.dtype).isfinite().all():
        return "holds values that are not finite"
    return ""


def freeze(net: Net) -> Net:
    """Put a network into eval mode without gradients."""
    net.eval().requires_grad_(requires_grad=False)
    return net
