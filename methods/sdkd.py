"""SD-KD: KD on the whole image and on the regions of its last feature map, each of which the classifier reads.

One of the three forms of SDD; see `kdbench.methods._regions` for the regions and their weights.
"""

from torch import Tensor

from kdbench.method import fraction, log, temperature, weight

from ._regions import DEVIATIONS, RegionMethod
from .kd import kl_per_image


class SDKD(RegionMethod):
    """Cross entropy, and KD's divergence of each region."""

    DEVIATIONS = ("weights, temperature and no warm-up are mdistiller's for KD, which the authors keep", *DEVIATIONS)
    config: "Config"

    class Config(RegionMethod.Config):
        """Defaults: those of the authors' code."""

        ce_weight: float = weight(0.1)
        """Weight of the cross entropy of the whole image."""
        kd_weight: float = weight(0.9, search=log(0.1, 10.0))
        """Weight of the divergence, mean over the weighted regions; it includes the squared temperature."""
        temperature: float = temperature(4.0, search=log(1.0, 10.0))
        """Divides the logits of both networks."""
        warmup: float = fraction(0.0)
        """Fraction of training over which the divergence rises linearly from 0; 0 switches the warm-up off."""

    def compare(self, student: Tensor, teacher: Tensor, targets: Tensor) -> dict[str, Tensor]:
        return {"kd": self.config.kd_weight * kl_per_image(student, teacher, self.config.temperature)}
