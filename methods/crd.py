"""CRD: an image's student embedding is told from the teacher embeddings of images of other classes, and vice versa.

Noise-contrastive estimation against two memory banks. Follows the authors' code (RepDistiller): temperature 0.07 where
the paper's text has 0.1 for CIFAR, normalisers frozen after the first batch, both embeddings trained. One matrix
product scores a bank, from which the drawn columns are taken. The gradient is found together with the value, so that
the banks may move in place at once; negatives are drawn on the device. Drawing without a loop and scoring in bounded
memory make this file longer than those of other methods.

Legend: ``B`` images, ``N`` training images, ``K`` negatives, ``D`` embedding width.
"""

import functools
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdbench.functional import at_least_float32, inner_products, without_autocast
from kdbench.method import (
    Batch,
    Paper,
    Reads,
    Rows,
    Setup,
    count,
    fraction,
    later,
    log,
    non_negative,
    temperature,
    weight,
)
from kdbench.net import Outputs

from ._task import TaskMethod


@functools.cache
def prime_from(value: int) -> int:
    """Return the smallest prime that is at least ``value``."""
    candidate = max(value, 2)
    while any(candidate % divisor == 0 for divisor in range(2, math.isqrt(candidate) + 1)):
        candidate += 1
    return candidate


def draw_negatives(targets: Tensor, labels: Tensor, num: int, largest_class: int, generator: torch.Generator) -> Tensor:
    """Positions ``(B, num)`` of training images of other classes than ``targets``, without repeats in a row.

    Each row walks one random order of the training set from its own start with its own stride (modulo a prime, so
    no place comes twice) and leaves out its class. A row is thus a uniform draw without replacement, in time and
    memory of ``B * num``. ``num`` is at most ``N - largest_class``, the images that every class has to contrast.
    """
    size, device = labels.shape[0], labels.device
    prime = prime_from(size)
    length = min(num + largest_class + prime - size, prime)
    order = torch.randperm(size, generator=generator, device=device)
    shape = (targets.shape[0], 1)
    start = torch.randint(0, prime, shape, generator=generator, device=device)
    stride = torch.randint(1, prime, shape, generator=generator, device=device)
    place = (stride * torch.arange(length, device=device)).add_(start).remainder_(prime)
    allowed = place < size
    candidates = order[place.clamp_(max=size - 1)]
    del place  # each of these tensors takes 8 MB for 16,384 negatives of 64 images
    allowed &= labels[candidates] != targets[:, None]
    # The first ``num`` that are allowed get their rank as their column, all others the column 0.
    column = allowed.cumsum(dim=1).mul_(allowed)
    column.masked_fill_(column > num, 0)
    return candidates.new_empty(len(targets), 1 + num).scatter_(1, column, candidates)[:, 1:]


def products(rows: Tensor, bank: Tensor) -> Tensor:
    """All inner products ``(A, N)`` of ``(A, D)`` and ``(N, D)``, in bfloat16 for a bank in it, else in float32."""
    if bank.dtype != torch.bfloat16:
        return inner_products(rows, bank)
    with without_autocast(rows.device):
        return rows.to(bank.dtype) @ bank.mT


def contrast_scores(
    embedding: Tensor, bank: Tensor, columns: Tensor, temperature: float, max_products: int = 2**26
) -> Tensor:
    """Inner products of embeddings ``(B, D)`` and bank rows ``columns`` ``(B, 1 + K)``, over temperature.

    At most ``max_products`` products, or those of one image, are held at once.
    """
    parts = [
        at_least_float32(products(rows, bank).gather(1, own))
        for rows, own in _chunks(embedding, columns, bank, max_products)
    ]
    return (torch.cat(parts) if len(parts) > 1 else parts[0]) / temperature


def weighted_rows(weights: Tensor, bank: Tensor, columns: Tensor, max_products: int = 2**26) -> Tensor:
    """Sums ``(B, D)`` of bank rows ``columns`` ``(B, 1 + K)``, each times its weight; the scores' way back."""
    parts = [
        products(own.new_zeros(len(own), len(bank)).scatter_add_(1, places, own), bank.T)
        for own, places in _chunks(weights, columns, bank, max_products)
    ]
    return at_least_float32(torch.cat(parts))


def _chunks(rows: Tensor, columns: Tensor, bank: Tensor, max_products: int) -> Iterator[tuple[Tensor, Tensor]]:
    images = max(max_products // len(bank), 1)
    return zip(rows.split(images), columns.split(images), strict=True)


def log_normaliser(scores: Tensor, num_data: int) -> Tensor:
    """``log Z`` with ``Z = N * mean(exp(scores))`` over a batch's positives and negatives; a constant."""
    return scores.detach().flatten().logsumexp(dim=0) + math.log(num_data / scores.numel())


def nce_loss(log_ratios: Tensor, num_data: int, epsilon: float) -> Tensor:
    """Noise-contrastive estimation of ``score - log Z``, ``(B, 1 + K)``, positives first; mean, in nats.

    With ``c = K / N``: ``-log(x / (x + c + epsilon))`` of the positive and ``-log(c / (x + c + epsilon))`` of each
    negative ratio ``x``, summed over an image's columns.
    """
    noise = (log_ratios.shape[1] - 1) / num_data
    shifted = log_ratios - math.log(noise + epsilon)
    negatives = math.log1p(epsilon / noise) - functional.logsigmoid(-shifted[:, 1:])
    return (negatives.sum(dim=1) - functional.logsigmoid(shifted[:, 0])).mean()


def nce_slope(log_ratios: Tensor, num_data: int, epsilon: float) -> Tensor:
    """Return the derivative of `nce_loss` by each of its log ratios, ``(B, 1 + K)``."""
    noise = (log_ratios.shape[1] - 1) / num_data
    slope = (log_ratios - math.log(noise + epsilon)).sigmoid_()
    slope[:, 0] -= 1
    return slope.div_(len(slope))


def joined_normaliser(log_z: Tensor, counts: Tensor) -> Tensor:
    """``log Z`` of a batch from those of its groups, ``(G,)``, of so many images each."""
    highest = log_z.max()
    return highest + ((log_z - highest).exp() * (counts / counts.sum())).sum().log()


def move_bank(bank: Tensor, index: Tensor, embedding: Tensor, momentum: float) -> None:
    """Move rows ``index`` of a bank ``(N, D)`` towards ``embedding``, in place, and normalise them."""
    moved = momentum * bank[index] + (1 - momentum) * embedding.detach().to(bank.dtype)
    bank.index_copy_(0, index, functional.normalize(moved, dim=1))


class CRD(TaskMethod):
    """Noise-contrastive estimation between student and teacher embeddings."""

    FAMILY = "contrast"
    PAPER = Paper("Contrastive Representation Distillation", "Tian, Krishnan, Isola", "ICLR", 2020, "1910.10699")
    READS = Reads(student={"penultimate"}, teacher={"penultimate"})
    DEVIATIONS = (
        "temperature 0.07 is the authors' code; the paper's text gives 0.1 for CIFAR",
        "where a class has fewer than num_negatives images to contrast, all draw that many; the code repeats them",
    )
    config: "Config"

    class Config(TaskMethod.Config):
        """Defaults: the authors' code (RepDistiller) for all CIFAR-100 pairs; CRD+KD is ``kd_weight = 1``."""

        crd_weight: float = weight(0.8, search=log(0.1, 5.0))
        """Weight of the contrast, student against teacher plus teacher against student."""
        feat_dim: int = count(128)
        """Width of the embeddings."""
        num_negatives: int = count(16384)
        """Negatives of an image; fewer where some class has not that many images to contrast."""
        temperature: float = temperature(0.07, search=log(0.03, 0.3))
        """Divides the inner products of embeddings."""
        momentum: float = fraction(0.5)
        """Share of the old row that the banks keep."""
        epsilon: float = non_negative(1e-7)
        """Added to the denominators of the noise-contrastive estimate."""
        max_products: int = count(2**26, resource=True)
        """Inner products held at once, 256 MiB; with a larger bank a batch is taken some images at a time."""
        half_products: bool = later(False)
        """Multiply with the banks in bfloat16: faster where the processor computes in it; scores keep two digits."""

    labels: Tensor
    student_bank: Tensor
    teacher_bank: Tensor
    student_log_z: Tensor
    teacher_log_z: Tensor

    def __init__(self, config: Config, setup: Setup) -> None:
        super().__init__(config, setup)
        size = setup.labels.shape[0]
        self.largest_class = int(setup.labels.bincount().max())
        self.num_negatives = min(self.config.num_negatives, size - self.largest_class)
        if self.num_negatives < 1:
            raise ValueError("CRD contrasts images of different classes, but the training set has only one class")
        dim, limit = self.config.feat_dim, math.sqrt(3 / self.config.feat_dim)
        self.student_embed = nn.Linear(setup.student.width, dim)
        self.teacher_embed = nn.Linear(setup.teacher.width, dim)
        self.register_buffer("labels", setup.labels.clone(), persistent=False)
        for side in ("student", "teacher"):
            self.register_buffer(f"{side}_bank", torch.empty(size, dim).uniform_(-limit, limit))
            self.register_buffer(f"{side}_log_z", torch.tensor(math.inf))  # infinite until the first batch sets it

    def distill(self, student: Outputs, teacher: Outputs, batch: Batch) -> tuple[dict[str, Tensor], Rows]:
        """Return the weighted contrast, and the embeddings that the banks will take."""
        config = self.config
        limits = (self.num_negatives, self.largest_class)
        negatives = draw_negatives(batch.targets, self.labels, *limits, batch.generator)
        columns = torch.cat([batch.index[:, None], negatives], dim=1)
        del negatives
        ours = functional.normalize(at_least_float32(self.student_embed(student.penultimate)), dim=1)
        theirs = functional.normalize(at_least_float32(self.teacher_embed(teacher.penultimate)), dim=1)
        by_student, student_log_z = self._contrast(ours, self.teacher_bank, self.student_log_z, columns)
        by_teacher, teacher_log_z = self._contrast(theirs, self.student_bank, self.teacher_log_z, columns)
        rows = {
            "index": batch.index,
            "student": ours.detach(),
            "teacher": theirs.detach(),
            "student_log_z": student_log_z.view(1),
            "teacher_log_z": teacher_log_z.view(1),
            "images": student_log_z.new_full((1,), batch.size),
        }
        return {"crd": config.crd_weight * (by_student + by_teacher)}, rows

    @torch.no_grad()
    def remember(self, rows: Rows) -> None:
        """Move the banks towards a batch's embeddings; the first batch sets the normalisers."""
        for side, bank, log_z in (
            ("student", self.student_bank, self.student_log_z),
            ("teacher", self.teacher_bank, self.teacher_log_z),
        ):
            move_bank(bank, rows["index"], rows[side], self.config.momentum)
            log_z.copy_(torch.where(log_z.isinf(), joined_normaliser(rows[f"{side}_log_z"], rows["images"]), log_z))

    def _contrast(self, embedding: Tensor, bank: Tensor, log_z: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss, and the ``log Z`` in it: that of these images until a first batch has set one."""
        config, size = self.config, bank.shape[0]
        bank = bank.bfloat16() if config.half_products else bank
        scores = contrast_scores(embedding.detach(), bank, columns, config.temperature, config.max_products)
        log_z = torch.where(log_z.isinf(), log_normaliser(scores, size).to(log_z.dtype), log_z)
        log_ratios = scores.sub_(log_z)
        slope = nce_slope(log_ratios, size, config.epsilon)
        gradient = weighted_rows(slope, bank, columns, config.max_products) / config.temperature
        loss = nce_loss(log_ratios, size, config.epsilon)
        return loss + ((embedding - embedding.detach()) * gradient).sum(), log_z  # the value, with its gradient
