"""Save, read, load and hash the weights of networks."""

from __future__ import annotations

import argparse
import hashlib
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from kdbench.errors import UserError
from kdbench.net import Net
from kdbench.utils.files import write_atomic


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
    write_atomic(path, safetensors.torch.save(weights, metadata={"network": net.name}), permit=permit)
    return weights_hash(weights)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the state dict of a checkpoint: safetensors, or a file of torch.save as mdistiller and RepDistiller write.

    Never runs code of the file. Takes a state dict under ``model`` or ``state_dict``, and drops a ``module.`` prefix.

    Raises
    ------
    UserError
        The file is missing, damaged, holds code, or holds no state dict.
    """
    if not path.is_file():
        raise UserError(f"there is no checkpoint {path}")
    try:
        content = safetensors.torch.load_file(path) if path.suffix == ".safetensors" else _read_pickle(path)
    except pickle.UnpicklingError as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{path} holds more than tensors and plain values and was not loaded, since it could run code "
            f"({reason}): save its state dict alone, torch.save({{'model': net.state_dict()}}, FILE)"
        ) from None
    except (safetensors.SafetensorError, RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} is damaged or no checkpoint ({reason}): fetch it again") from None
    for key in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise UserError(f"{path} holds no state dict: a dict of tensors, alone or under 'model' or 'state_dict'")
    return {str(k).removeprefix("module."): v for k, v in content.items()}


def load_weights(net: Net, weights: dict[str, Tensor], origin: str) -> None:
    """Load weights into a network.

    Raises
    ------
    UserError
        The weights are those of another network or number of classes.
    """
    expected = net.backbone.state_dict()
    prefix = net.backbone.PREFIX
    weights = {name if name.startswith(prefix) else prefix + name: value for name, value in weights.items()}
    missing, extra = sorted(expected.keys() - weights.keys()), sorted(weights.keys() - expected.keys())
    shapes = [k for k in expected.keys() & weights.keys() if expected[k].shape != weights[k].shape]
    parts = [
        f"{len(names)} {what} ({names[0]}{', ...' if len(names) > 1 else ''})"
        for names, what in ((missing, "missing"), (extra, "unknown"), (sorted(shapes), "of another shape"))
        if names
    ]
    if parts:
        raise UserError(
            f"{origin} is no {net.name} with {net.num_classes} classes: entries {'; '.join(parts)}. "
            "Name the right network with --network, or the right data set with --protocol"
        )
    net.backbone.load_state_dict(weights)


def _read_pickle(path: Path) -> Any:
    # RepDistiller saves its command line (a Namespace of plain values) and NumPy scalars beside the weights.
    scalar = np.float64(0).__reduce__()[0]
    plain = [argparse.Namespace, np.dtype, type(np.dtype(np.float64)), type(np.dtype(np.float32)), scalar]
    names: list[Any] = [*plain, (scalar, "numpy.core.multiarray.scalar")]
    with torch.serialization.safe_globals(names), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pickles in a newer protocol than torch's own
        return torch.load(path, map_location="cpu", weights_only=True)


def freeze(net: Net) -> Net:
    """Put a network into eval mode without gradients."""
    net.eval().requires_grad_(requires_grad=False)
    return net
