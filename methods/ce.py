"""CE: the student alone, trained by cross entropy.

The baseline of every table, and the way a teacher is trained.
"""

from torch import Tensor

from kdbench.method import Batch, Method, Outputs, Reads


class CE(Method):
    """Cross entropy alone; no teacher."""

    FAMILY = "none"
    READS = Reads(student={"logits"})

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        return {"ce": batch.cross_entropy(student.logits).mean()}
