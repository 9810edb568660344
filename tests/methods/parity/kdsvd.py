"""KD-SVD, with the stored signs of the teacher's vectors, on which the loss depends."""

from __future__ import annotations

from unittest import mock

from parity_files import Case
from torch import Tensor
from torch.nn import functional

from kdbench.methods import kdsvd
from kdbench.methods._eigenvectors import right_vectors
from parity._wiring import Sides, Values, method_weight

STAGES = range(1, 4)


def with_signs_of(stored: Tensor, vectors: Tensor) -> Tensor:
    return vectors * (vectors * stored).sum(dim=1, keepdim=True).sign()


def computed(case: Case) -> Values:
    sides = Sides(case)
    num, matrix = int(case.value("hp.k")), "channels" if case.name.startswith("kdsvd/rep_") else "columns"

    def oriented(vectors: Tensor) -> Tensor:
        teachers = [case.tensor(f"svd.v_t.{stage}") for stage in STAGES]
        (stored,) = (vector for vector in teachers if vector.shape == vectors.shape)
        return with_signs_of(stored, vectors)

    with mock.patch.object(kdsvd, "oriented", oriented):
        for side, extra in (("s", 3), ("t", 0)):
            for stage in STAGES:
                maps = kdsvd.as_matrices(case.tensor(f"in.feats_{side}.{stage}"), matrix)
                vectors, values = right_vectors(maps, num + extra)
                yield f"svd.v_{side}.{stage}", with_signs_of(case.tensor(f"svd.v_{side}.{stage}"), vectors)
                yield f"svd.s_{side}.{stage}", functional.normalize(values, dim=1)
        losses = kdsvd.kdsvd_losses(*zip(*sides.stages, strict=True), num, matrix)
        yield "out.kdsvd", losses.sum()
        yield "out.kdsvd_per_pair", losses
        yield from sides.task(
            sides.method(kdsvd.KDSVD, kdsvd_weight=method_weight(case), num_vectors=num, matrix=matrix)
        )
