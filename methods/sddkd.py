"""SD-DKD: DKD on the whole image and on the regions of its last feature map, each of which the classifier reads.

One of the three forms of SDD; see `kdbench.methods._regions` for the regions and their weights.
"""

from torch import Tensor

from kdbench.method import log, temperature, weight

from ._regions import DEVIATIONS, RegionMethod
from .dkd import nckd_per_image, tckd_per_image


class SDDKD(RegionMethod):
    """Cross entropy, and DKD's two terms of each region."""

    MIN_CLASSES = 3
    DEVIATIONS = DEVIATIONS
    config: "Config"

    class Config(RegionMethod.Config):
        """Defaults: those of the authors' code for CIFAR-100."""

        alpha: float = weight(1.0, search=log(0.1, 10.0))
        """Weight of the target-class term (TCKD), mean over the weighted regions."""
        beta: float = weight(8.0, search=log(0.5, 32.0))
        """Weight of the non-target-class term (NCKD), mean over the weighted regions."""
        temperature: float = temperature(4.0, search=log(1.0, 10.0))
        """Divides the logits of both networks."""

    def compare(self, student: Tensor, teacher: Tensor, targets: Tensor) -> dict[str, Tensor]:
        config, inputs = self.config, (student, teacher, targets, self.config.temperature)
        return {"tckd": config.alpha * tckd_per_image(*inputs), "nckd": config.beta * nckd_per_image(*inputs)}
