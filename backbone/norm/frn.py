"""Filter response normalization."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import Norm, at_least_single
from .registry import NORMS


@NORMS.register()
class FRN(Norm):
    """Filter response normalization (Singh & Krishnan, CVPR 2020, arXiv 1911.09737), with its TLU in place of a ReLU.

    y = weight · x / √(ν² + |ε|) + bias, where ν² is the mean of x² over the map of one channel of one sample, and no
    mean is taken off. The thresholded linear unit is max(y, τ) with a learned τ, [C]. Evaluation is as training.

    In the suite's backbones the unit stands where a ReLU follows the layer at once; a ReLU after a sum with a shortcut
    stays a ReLU. By itself, a layer has the unit if `tlu` says so.

    Maps of a single pixel would have nothing but a sign left: for these ε is learned, as the paper has it for vectors.

    Args:
        num_features: channels C.
        spatial_size: side S of the maps, where it is known.
        affine: whether there are `weight` and `bias`, [C].
        tlu: whether the layer ends in its thresholded linear unit; no ReLU is to follow then.
        eps: ε for maps of more than one pixel.

    Attributes:
        tau: τ, zeros at first; None without the unit.
        epsilon: ε where it is learned, [], 1e-4 at first; otherwise None.
    """

    per_sample = True
    shared_arguments: ClassVar[tuple[str, ...]] = ("affine",)  # a mean square is no variance

    tau: nn.Parameter | None
    epsilon: nn.Parameter | None

    def __init__(
        self,
        num_features: int,
        *,
        spatial_size: int | None = None,
        affine: bool = True,
        tlu: bool = False,
        eps: float = 1e-6,
    ) -> None:
        super().__init__(num_features, spatial_size=spatial_size)
        self.eps = eps
        self.make_affine(affine, (num_features,))
        self.register_parameter("epsilon", nn.Parameter(torch.tensor(1e-4)) if spatial_size == 1 else None)
        self.register_parameter("tau", None)
        if tlu:
            self.take_relu()

    def take_relu(self) -> bool:
        if self.tau is None:
            self.tau = nn.Parameter(torch.zeros(self.num_features))
        return True

    def normalize(self, x: Tensor) -> Tensor:
        values = at_least_single(x)
        mean_square = values.square().mean((2, 3))
        epsilon = self.eps if self.epsilon is None else self.epsilon.abs()
        scale = self.scaled(torch.rsqrt(mean_square + epsilon))[:, :, None, None]
        if self.tau is None:
            y = values * scale if self.bias is None else torch.addcmul(self.bias[:, None, None], values, scale)
        else:  # max(y, τ) = relu(y − τ) + τ, which has the simpler gradient
            shift = self.shifted(-self.tau)[:, None, None]
            y = F.relu(torch.addcmul(shift, values, scale)) + self.tau[:, None, None]
        return y.to(x.dtype)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, tlu={self.tau is not None}"
