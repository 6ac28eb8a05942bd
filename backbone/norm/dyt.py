"""Dynamic tanh."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from .base import Norm, at_least_single
from .options import Option, ranged
from .registry import NORMS

_ALPHA0 = Option(
    "dyt_alpha0", ranged(float, 0), 0.5, "initial value of α, by which the input of DyT's tanh is multiplied"
)


@NORMS.register()
class DyT(Norm):
    """Dynamic tanh (Zhu et al., Transformers without Normalization, CVPR 2025, arXiv 2503.10622), for maps.

    y = weight · tanh(α x) + bias, with a learned number α, the same for all channels, and no statistics of anything.
    The paper has it in place of layer normalization, and finds it hard to put in the place of batch normalization.

    Args:
        num_features: channels C.
        spatial_size: side S of the maps, where it is known.
        affine: whether there are `weight` and `bias`, [C].
        dyt_alpha0: initial value of α.

    Attributes:
        alpha: α, [].
    """

    per_sample = True
    options = (_ALPHA0,)
    shared_arguments: ClassVar[tuple[str, ...]] = ("affine",)
    _shown: ClassVar[tuple[str, ...]] = ("dyt_alpha0",)

    def __init__(
        self,
        num_features: int,
        *,
        spatial_size: int | None = None,
        affine: bool = True,
        dyt_alpha0: float = _ALPHA0.default,
    ) -> None:
        super().__init__(num_features, spatial_size=spatial_size)
        self.dyt_alpha0 = dyt_alpha0
        self.make_affine(affine, (num_features,))
        self.alpha = nn.Parameter(torch.tensor(float(dyt_alpha0)))

    def normalize(self, x: Tensor) -> Tensor:
        squashed = torch.tanh(self.alpha * at_least_single(x))
        if self.weight is None or self.bias is None:
            return squashed.to(x.dtype, copy=True)  # tanh keeps what it gives, and a ReLU in place may follow
        return torch.addcmul(self.bias[:, None, None], self.weight[:, None, None], squashed).to(x.dtype)
