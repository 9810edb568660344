"""Leading eigenvectors and singular vectors of a batch of matrices, with gradients also where values are equal.

On the CPU they come from a decomposition. Elsewhere that would wait for the device: there a matrix is squared until its
first eigenvector is all that is left of it, and the vector's gradient is a geometric series, summed by doubling.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

DOUBLINGS = 20
"""Eigenvalues that differ by less than the largest times two to the power of minus this count as equal."""
CLOSE = 2.0**-DOUBLINGS

Found = Iterator[tuple[Tensor, Tensor, Tensor | None]]
"""One eigenvector ``(B, D, 1)``, its value ``(B, 1, 1)`` and, if wanted, ``pinv(value - gram)`` after another."""


def leading_eigenvectors(gram: Tensor, num: int) -> tuple[Tensor, Tensor]:
    """Leading unit eigenvectors ``(B, D, num)``, of any sign, and eigenvalues ``(B, num)`` of ``(B, D, D)``.

    The matrices are symmetric and have no negative eigenvalue. Vectors of eigenvalues that count as 0 are zeros. A
    vector changes by ``pinv(value - gram) d(gram) vector``, finite for equal eigenvalues too; eigenvalues have no
    gradient.
    """
    find = by_decomposition if gram.device.type == "cpu" else by_powers
    vectors, values = list[Tensor](), list[Tensor]()
    for vector, value, inverse in find(gram.detach(), num, inverses=gram.requires_grad):
        if inverse is None:
            vectors.append(vector)
        else:
            change = inverse @ (gram @ vector)
            vectors.append(vector + (change - change.detach()))
        values.append(value)
    return torch.cat(vectors, dim=2), torch.cat(values, dim=2)[:, 0]


def by_decomposition(gram: Tensor, num: int, *, inverses: bool) -> Found:
    """Find eigenvectors of matrices ``(B, D, D)`` by LAPACK; those of a matrix that is not finite are zeros."""
    finite = gram.isfinite().all(dim=2, keepdim=True).all(dim=1, keepdim=True)
    all_values, all_vectors = (each.flip(-1) for each in torch.linalg.eigh(gram.where(finite, 0)))
    all_values = all_values[:, None]
    close = all_values[:, :, :1] * CLOSE
    for number in range(num):
        vector, value = all_vectors[:, :, number, None], all_values[:, :, number, None]
        real, gap = value > close, value - all_values
        shares = (1 / gap).where(real & (gap.abs() > close), 0)
        yield vector.where(real, 0), value.where(real, 0), all_vectors * shares @ all_vectors.mT if inverses else None


def by_powers(gram: Tensor, num: int, *, inverses: bool) -> Found:
    """Find eigenvectors of matrices ``(B, D, D)`` by products of matrices alone."""
    rest, identity = gram, torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
    span, tiny = torch.zeros_like(rest), torch.finfo(gram.dtype).tiny
    found = list[tuple[Tensor, Tensor]]()
    for _ in range(num):
        power = rest
        for _ in range(DOUBLINGS):
            power = power / power.abs().amax(dim=(1, 2), keepdim=True).clamp(min=tiny)
            power = power @ power
        largest = power.diagonal(dim1=1, dim2=2).argmax(dim=1)[:, None, None]
        vector = functional.normalize(power.gather(2, largest.expand(-1, len(identity), 1)), dim=1)
        value = vector.mT @ rest @ vector
        first = found[0][1] if found else value
        real = value > first * CLOSE
        value, vector = value.where(real, 0), vector.where(real, 0)
        projector = vector @ vector.mT
        rest, span, inverse = rest - value * projector, span + projector, None
        if inverses:
            safe = value.where(real, 1)
            inverse = (_geometric_series(rest * real / safe, identity) - span) / safe
            for other, larger in found:
                gap = (value - larger).where(larger - value > first * CLOSE, torch.inf)
                inverse = inverse + other @ other.mT / gap
            inverse = inverse * real
        found.append((vector, value))
        yield vector, value, inverse


def _geometric_series(ratio: Tensor, identity: Tensor) -> Tensor:
    """Sum of the powers 0 to ``2**DOUBLINGS - 1`` of matrices ``(B, D, D)`` whose eigenvalues are in [0, 1]."""
    total = identity + ratio
    for _ in range(DOUBLINGS - 1):
        ratio = ratio @ ratio
        total = total + ratio @ total
    return total


def right_vectors(matrices: Tensor, num: int) -> tuple[Tensor, Tensor]:
    """Leading right singular vectors ``(B, D, num)``, of any sign, and values ``(B, num)`` of ``(B, N, D)``.

    From the smaller of the two Gram matrices; there are at most as many vectors as it has rows. Vectors of values
    that count as 0 are zeros; values have no gradient.
    """
    num = min(num, matrices.shape[1], matrices.shape[2])
    if matrices.shape[2] <= matrices.shape[1]:
        vectors, squares = leading_eigenvectors(matrices.mT @ matrices, num)
    else:
        left, squares = leading_eigenvectors(matrices @ matrices.mT, num)
        vectors = functional.normalize(matrices.mT @ left, dim=1)
    return vectors, squares.sqrt()
