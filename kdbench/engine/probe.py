"""Transfer by linear probe: multinomial logistic regression on frozen penultimate features of unaugmented images.

CRD (Tian et al., arXiv 1910.10699) and later papers compare students on STL-10 and Tiny ImageNet by linear
classifiers. The loss of this one is convex: its optimum depends on no learning rate, schedule or order of images.

Legend: ``N`` images, ``D`` width of the features, ``K`` classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize
from torch import Tensor
from torch.nn import functional as F

from kdbench.utils.streams import generator

L2: Final = tuple(10.0 ** (-place / 2) for place in range(13))
"""Weights of the penalty that are tried, 1 to 1e-6; the loss is the mean cross entropy plus half of it times the
squared norm of the classifier's weight."""
HELD_OUT: Final = 5
"""One of so many training images of each class is held out to choose the penalty."""
_MAX_ITERATIONS = 1000
_CHUNK = 2**14
"""Images whose logits are computed together."""


@final
@dataclass(frozen=True, slots=True)
class Probe:
    """A linear classifier of standardised features, and how it was chosen."""

    weight: Tensor
    """``(K, D + 1)``, the bias last."""
    mean: Tensor
    std: Tensor
    """Of each training feature, ``(D,)``; 1 where it is constant."""
    l2: float
    """The penalty that was chosen."""
    held_out: int
    """Number of training images by which it was chosen."""
    held_out_top1: float
    """Their accuracy in percent, with the classifier that was fitted to the others."""
    converged: bool
    """Whether the last fit reached its optimum."""

    def logits(self, features: Tensor) -> Tensor:
        """Return logits ``(N, K)`` of features ``(N, D)``."""
        return _logits(self.weight, (features - self.mean) / self.std)


def fit_probe(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    device: torch.device,
    observe: Callable[[float], None] = lambda _: None,
) -> Probe:
    """Fit a probe: the penalty by held-out images, then the classifier to all images.

    Parameters
    ----------
    features
        Of the training images, float32 ``(N, D)``, on the CPU.
    labels
        ``(N,)``, on the CPU.
    device
        Where it is computed.
    observe
        Called with the part that is done, in [0, 1].
    """
    held_out = split(labels)
    mean, std = features.mean(dim=0), features.std(dim=0, correction=0)
    std = torch.where(std > 1e-6 * (1 + mean.abs()), std, 1.0)
    inputs, targets = ((features - mean) / std).to(device), labels.to(device)
    rest, chosen = ~held_out.to(device), held_out.to(device)
    weight, best = torch.zeros(num_classes, inputs.shape[1] + 1), (-1.0, L2[0], torch.empty(0))
    fitted = inputs[rest], targets[rest]
    for place, l2 in enumerate(L2):
        weight, _ = fit(*fitted, weight, l2)
        hits = _logits(weight.to(device), inputs[chosen]).argmax(dim=1) == targets[chosen]
        best = max(best, (100 * hits.double().mean().item(), l2, weight), key=lambda each: each[0])
        observe((place + 1) / (len(L2) + 1))
    top1, l2, weight = best
    weight, converged = fit(inputs, targets, weight, l2)
    observe(1.0)
    return Probe(weight, mean, std, l2, int(held_out.sum()), top1, converged)


def split(labels: Tensor) -> Tensor:
    """Return which training images ``(N,)`` are held out: one of five of each class, drawn once and for all."""
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique().tolist():
        members = torch.nonzero(labels == label).flatten()
        drawn = torch.randperm(len(members), generator=generator(0, "probe", label))
        held_out[members[drawn[: max(len(members) // HELD_OUT, int(len(members) > 1))]]] = True
    return held_out


@torch.no_grad()
def fit(inputs: Tensor, targets: Tensor, weight: Tensor, l2: float) -> tuple[Tensor, bool]:
    """Minimise the mean cross entropy plus ``l2 / 2`` times the squared norm of the weight without the bias, by L-BFGS.

    Parameters
    ----------
    inputs, targets
        ``(N, D)`` and ``(N,)``, on one device.
    weight
        ``(K, D + 1)``, the bias last: where to begin.

    Returns
    -------
    weight
        On the CPU, float32.
    converged
        Whether it is the optimum.
    """
    shape, device = weight.shape, inputs.device

    def objective(values: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        current = torch.from_numpy(values).to(device, inputs.dtype).view(shape)
        loss = torch.zeros((), dtype=torch.float64, device=device)
        gradient = torch.zeros_like(current)
        for rows, classes in zip(inputs.split(_CHUNK), targets.split(_CHUNK), strict=True):
            logits = _logits(current, rows)
            loss += F.cross_entropy(logits, classes, reduction="sum").double() / len(inputs)
            excess = (logits.softmax(dim=1) - F.one_hot(classes, len(current))) / len(inputs)
            gradient[:, :-1] += excess.T @ rows
            gradient[:, -1] += excess.sum(dim=0)
        penalised = current[:, :-1]
        gradient[:, :-1] += l2 * penalised
        total = loss + l2 / 2 * penalised.double().square().sum()
        return total.item(), gradient.double().cpu().numpy().ravel()

    options = {"maxiter": _MAX_ITERATIONS, "maxfun": 2 * _MAX_ITERATIONS, "ftol": 1e-8, "gtol": 1e-6}
    start = weight.double().cpu().numpy().ravel()
    result: Any = minimize(objective, start, jac=True, method="L-BFGS-B", options=options)
    # A line search that ends in rounding errors has come as near as float32 can.
    ended = result.nit < _MAX_ITERATIONS and result.nfev < 2 * _MAX_ITERATIONS
    return torch.from_numpy(result.x).float().view(shape), ended


def _logits(weight: Tensor, inputs: Tensor) -> Tensor:
    return inputs @ weight[:, :-1].T + weight[:, -1]
