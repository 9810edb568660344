"""CE: the student alone, trained by cross entropy.

The baseline of every table, and the way a teacher is trained.
"""

from torch import Tensor

from kdbench.method import Batch, Method, Outputs, Reads, fraction, linear


class CE(Method):
    """Cross entropy alone; no teacher."""

    FAMILY = "none"
    READS = Reads(student={"logits"})

    class Config(Method.Config):
        """Defaults: plain cross entropy, under the label smoothing of the protocol, if it has some."""

        label_smoothing: float = fraction(0.0, later=True, search=linear(0.0, 0.3))
        """Weight of the uniform distribution in the targets; above 0 it is used in place of the protocol's."""

    config: Config

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        return {"ce": batch.cross_entropy(student.logits, self.config.label_smoothing or None).mean()}
