"""What all normalization layers have in common."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .errors import NormError
from .options import Option


class Norm(nn.Module, ABC):
    """Base of all normalization layers of feature maps [N, C, H, W].

    A subclass implements `normalize` and takes its settings by keyword.

    Args:
        num_features: channels C.
        spatial_size: side S of the maps, where it is known.

    Attributes:
        batch_sizes: rows of the batches that lie one after another in the maps of a training forward, each a batch of
            its own (`separate_batches`); None: the maps are one batch.
        options: constructor arguments that are options of the command line.
        regularizer_options: options of a method that adds the layer's regularizer to its loss.
        protocol_defaults: values of the constructor arguments, by the name of the protocol.
        needs_joint: the layer needs current and memory samples in one forward.
        needs_spatial_size: the layer cannot be made without the side of its maps.
        undecayed: names of parameters that weight decay must leave alone.
        shared_arguments: constructor arguments that mean here what they mean in `nn.BatchNorm2d`.
        min_values: per channel of a training batch, without which there are no statistics.
        min_pixels: of a map, without which it has no spread of its own where the layer needs one.
        per_sample: no sample depends on the others of its batch.
        fused_on: kinds of devices for which there are fused kernels that `normalize_at_once` takes.
        num_made: layers that have come into being so far, by construction, copying or unpickling.
    """

    name: ClassVar[str]
    options: ClassVar[tuple[Option, ...]] = ()
    regularizer_options: ClassVar[tuple[Option, ...]] = ()
    protocol_defaults: ClassVar[dict[str, dict[str, Any]]] = {"online": {"affine": True}, "offline": {"affine": True}}
    needs_joint: ClassVar[bool] = False
    needs_spatial_size: ClassVar[bool] = False
    undecayed: ClassVar[tuple[str, ...]] = ()
    shared_arguments: ClassVar[tuple[str, ...]] = ("affine", "eps", "momentum")
    min_values: ClassVar[int] = 1
    min_pixels: ClassVar[int] = 1
    per_sample: ClassVar[bool] = False
    fused_on: ClassVar[tuple[str, ...]] = ()
    num_made: ClassVar[int] = 0
    _shown: ClassVar[tuple[str, ...]] = ("eps",)

    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def __init_subclass__(cls, **more: Any) -> None:
        """What a subclass does anew for one batch holds for several, and for all maps, unless it says otherwise."""
        super().__init_subclass__(**more)
        if _place(cls, "normalize", "normalize_batch") < _place(cls, "normalize_batches"):
            cls.normalize_batches = Norm.normalize_batches  # type: ignore[method-assign]
        if _place(cls, "normalize", "normalize_batch", "normalize_batches") < _place(cls, "normalize_at_once"):
            cls.normalize_at_once = Norm.normalize_at_once  # type: ignore[method-assign]
            cls.fused_on = ()

    def __init__(self, num_features: int, *, spatial_size: int | None = None) -> None:
        super().__init__()
        Norm.num_made += 1
        self.batch_sizes: tuple[int, ...] | None = None
        if num_features < 1:
            raise NormError(f"{self.name}: num_features must be at least 1, not {num_features}")
        if spatial_size is None and self.needs_spatial_size:
            raise NormError(f"{self.name} has parameters for every position: give spatial_size, the side of the maps")
        self.num_features = num_features
        self.spatial_size = spatial_size
        if spatial_size is not None:
            self.check_map_size(spatial_size**2)

    def forward(self, x: Tensor, *, added: Tensor | None = None, rectified: bool = False) -> Tensor:
        """Normalise feature maps [N, C, H, W]; the result has their shape and type.

        Args:
            x: the maps.
            added: maps of this shape, which are added to the result; None for nothing.
            rectified: whether a ReLU follows at the end.

        Raises:
            ValueError: the input has another number of axes or channels, or of samples than all its batches.
            NormError: too few values for the layer's statistics.
        """
        if x.dim() != 4 or x.shape[1] != self.num_features:
            raise ValueError(
                f"{self.name} for {self.num_features} channels takes [N, {self.num_features}, H, W], "
                f"not {list(x.shape)}"
            )
        sizes = self.batch_sizes if self.training and not self.per_sample else None
        if sizes is not None and sum(sizes) != len(x):
            raise ValueError(f"batches of {list(sizes)} samples were announced, not {len(x)} samples")
        if self.training and (y := self.normalize_at_once(x, added, rectified)) is not None:
            return y
        y = self.normalize(x) if sizes is None else self.normalize_batches(x, sizes)
        return add_and_rectify(y, added, rectified)

    def normalize_at_once(self, x: Tensor, added: Tensor | None, rectified: bool) -> Tensor | None:
        """What `forward` does in training, in fewer operations; None where there are none for such maps."""
        return None

    @abstractmethod
    def normalize(self, x: Tensor) -> Tensor:
        """What the layer does."""

    def normalize_batches(self, x: Tensor, sizes: tuple[int, ...]) -> Tensor:
        """What the layer does in training with several batches, one after another as if each had come alone."""
        return torch.cat([self.normalize(batch) for batch in x.split(sizes)])

    def make_affine(self, affine: bool, shape: tuple[int, ...]) -> None:
        """Register `weight` (ones) and `bias` (zeros), or None in their places."""
        self.register_parameter("weight", nn.Parameter(torch.ones(shape)) if affine else None)
        self.register_parameter("bias", nn.Parameter(torch.zeros(shape)) if affine else None)

    def scaled(self, values: Tensor) -> Tensor:
        """weight · values, of shape [..., C]."""
        return values if self.weight is None else self.weight * values

    def shifted(self, values: Tensor) -> Tensor:
        """values + bias, of shape [..., C]."""
        return values if self.bias is None else values + self.bias

    def check_map_size(self, num_pixels: int) -> None:
        """Raises NormError for maps of so few pixels that they have no spread of their own where one is needed."""
        if num_pixels < self.min_pixels:
            raise NormError(
                f"{self.name} needs maps of at least {self.min_pixels} pixels: use larger images or another layer"
            )

    def take_relu(self) -> bool:
        """Take the place of the ReLU that follows the layer in a network, if the layer has a unit of its own for it.

        Returns:
            Whether it does, so that no ReLU is to follow.
        """
        return False

    def take_statistics(self, old: nn.BatchNorm2d) -> bool:
        """Go on from the running statistics of a layer of batch normalization, as far as they have a meaning here.

        Returns:
            Whether evaluation stays what it was.
        """
        return False

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"batch_sizes": None}  # a copy is not in the forward that is under way

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        Norm.num_made += 1

    def extra_repr(self) -> str:
        shown = (f"{name}={getattr(self, name)}" for name in self._shown if hasattr(self, name))
        return ", ".join([str(self.num_features), *shown, f"affine={self.weight is not None}"])


def _place(cls: type, *names: str) -> int:
    """Of the first class that defines one of these, among those that a class has its methods from."""
    return next(place for place, base in enumerate(cls.__mro__) if vars(base).keys() & set(names))


class RunningNorm(Norm):
    """Base of the layers that normalise by the batch in training and by running statistics in evaluation.

    A subclass implements `normalize_batch`.

    Args:
        num_features: channels C.
        spatial_size: side S of the maps, where it is known.
        affine: whether there are `weight` and `bias`, [C].
        eps: added to the variance.
    """

    min_values = 2

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(
        self, num_features: int, *, spatial_size: int | None = None, affine: bool = True, eps: float = 1e-5
    ) -> None:
        super().__init__(num_features, spatial_size=spatial_size)
        self.eps = eps
        self.make_affine(affine, (num_features,))
        self.make_statistics()

    def make_statistics(self) -> None:
        """Register the buffers."""
        self.register_buffer("running_mean", torch.zeros(self.num_features))
        self.register_buffer("running_var", torch.ones(self.num_features))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    @torch.no_grad()
    def take_statistics(self, old: nn.BatchNorm2d) -> bool:
        mean, variance = statistics_of(old)
        self.running_mean.copy_(mean)
        self.running_var.copy_(variance)
        if old.num_batches_tracked is not None:
            self.num_batches_tracked.copy_(old.num_batches_tracked)
        return True

    def normalize(self, x: Tensor) -> Tensor:
        if not self.training:
            return self.normalize_running(x)
        if not self.has_variance(x, len(x)):
            raise NormError(
                f"{self.name} has 1 value per channel in training, which has no variance: "
                "use a larger batch or larger images"
            )
        return self.normalize_batch(x)

    def has_variance(self, x: Tensor, num_samples: int) -> bool:
        """Whether so many samples of these maps have enough values per channel."""
        return num_samples * x.shape[2:].numel() >= self.min_values

    @abstractmethod
    def normalize_batch(self, x: Tensor) -> Tensor:
        """Normalise by statistics of the batch, and update the running statistics."""

    def normalize_running(self, x: Tensor) -> Tensor:
        """Normalise by the running statistics, and change nothing."""
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)


def add_and_rectify(y: Tensor, added: Tensor | None, rectified: bool) -> Tensor:
    """relu(y + added), without the one or the other if it is not wanted."""
    if added is None:
        return F.relu(y) if rectified else y
    total = y + added
    # In place only on the sum: a norm layer may keep its own output for the backward pass, a sum never does.
    return F.relu_(total) if rectified else total


def statistics_of(layer: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Running mean and variance [C] of a layer of batch normalization. Raises ValueError if it keeps none."""
    if layer.running_mean is None or layer.running_var is None:
        raise ValueError(f"{layer} keeps no running statistics")
    return layer.running_mean, layer.running_var


def at_least_single(x: Tensor) -> Tensor:
    """The same in float32 if it is in half precision."""
    return x if x.dtype is torch.float32 else x.to(table_type(x))


def table_type(x: Tensor) -> torch.dtype:
    """Of the statistics of feature maps."""
    return torch.promote_types(x.dtype, torch.float32)


@torch.no_grad()
def track(running: Sequence[Tensor], values: Sequence[Tensor], step: float | Sequence[Tensor]) -> None:
    """running ← (1 - step) · running + step · value for all of them, in place, in one operation.

    Args:
        running: tensors of one type.
        values: of their shapes.
        step: a number, or tensors of these shapes.
    """
    dtype = running[0].dtype
    ends = [value.to(dtype) for value in values]
    if isinstance(step, Sequence):
        torch._foreach_lerp_(list(running), ends, [each.to(dtype) for each in step])
    else:
        torch._foreach_lerp_(list(running), ends, step)
