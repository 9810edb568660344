"""Predict and measure on the test set. Legend: ``N`` images, ``K`` classes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from kdbench.net import Net
from kdbench.utils.device import forward_batch

NUM_ECE_BINS = 15


@torch.no_grad()
def evaluate(logits: Tensor, targets: Tensor, teacher_logits: Tensor | None = None) -> dict[str, float]:
    """Return accuracy, calibration and fidelity.

    Parameters
    ----------
    logits, targets
        ``(N, K)`` and ``(N,)``.
    teacher_logits
        ``(N, K)``; without them, the fidelity metrics are left out.

    Returns
    -------
    dict
        ``top1``, ``top5`` (percent; the first min(5, K) classes), ``nll`` (nats), ``ece`` (percent), and with
        a teacher ``agreement`` (percent of equal predictions) and ``teacher_kl`` (KL(teacher || student) at
        temperature 1, nats).
    """
    logits = logits.double()
    log_p = F.log_softmax(logits, dim=1)
    ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices
    hits = ranked == targets[:, None]
    results = {
        "top1": 100 * hits[:, 0].double().mean().item(),
        "top5": 100 * hits.any(dim=1).double().mean().item(),
        "nll": F.nll_loss(log_p, targets).item(),
        "ece": 100 * expected_calibration_error(log_p.exp(), targets),
    }
    if teacher_logits is not None:
        teacher_log_p = F.log_softmax(teacher_logits.double(), dim=1)
        agree = logits.argmax(dim=1) == teacher_logits.argmax(dim=1)
        results["agreement"] = 100 * agree.double().mean().item()
        results["teacher_kl"] = F.kl_div(log_p, teacher_log_p, reduction="batchmean", log_target=True).item()
    return results


def expected_calibration_error(probabilities: Tensor, targets: Tensor) -> float:
    """Return the ECE over 15 equal-width bins of confidence, in [0, 1] (Guo et al., ICML 2017, equation 3).

    Parameters
    ----------
    probabilities, targets
        ``(N, K)`` and ``(N,)``.
    """
    confidence, predicted = probabilities.max(dim=1)
    correct = (predicted == targets).double()
    bins = (confidence * NUM_ECE_BINS).ceil().long().clamp(1, NUM_ECE_BINS) - 1
    gap = torch.zeros(NUM_ECE_BINS, dtype=torch.float64, device=probabilities.device)
    gap.index_add_(0, bins, correct - confidence.double())
    return (gap.abs().sum() / len(targets)).item()


@torch.inference_mode()
def predict(net: Net, images: Tensor) -> Tensor:
    """Return float32 logits ``(N, K)`` on the CPU of uint8 images ``(N, H, W, 3)``; leave it in eval mode."""
    net.eval()
    device = net.mean.device
    parts = []
    for chunk in images.split(forward_batch(device)):
        pixels = chunk.to(device, non_blocking=True).permute(0, 3, 1, 2).float().div_(255)
        parts.append(net.logits(pixels).float())
    return torch.cat(parts).cpu()
