"""BN: batch normalization (Ioffe and Szegedy, ICML 2015)."""

from backbone.norm.base import RunningNorm
from utils.registry import NORMS


@NORMS.register()
class BatchNorm(RunningNorm):
    """y = γ (x − μ) / √(v + eps) + β, μ and v over N, H, W in training, running in evaluation."""
