"""Classifiers: parts that a protocol or a method names and that go on any backbone."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Generic, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from backbone.norm import takes_batches
from utils.config.parts import BackbonePart
from utils.passes import Passes


class Head(Protocol):
    """A classifier, an `nn.Module`: features [N, D] -> scores [N, K].

    Attributes:
        grows: whether it gets the outputs of a task when that begins.
    """

    grows: ClassVar[bool]

    def __init__(self, num_features: int, *sizes: int) -> None: ...

    @property
    def num_classes(self) -> int:
        """Outputs K so far."""
        ...

    def __call__(self, features: Tensor) -> Tensor: ...

    def grow(self, num_classes: int) -> None:
        """Add the outputs of a task, if they are not there."""
        ...

    def newest_parameters(self) -> list[nn.Parameter]:
        """Those of the newest task's outputs."""
        ...

    def old_parameters(self) -> list[nn.Parameter]:
        """Those of the outputs of all tasks before the newest one."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]: ...


HEADS: dict[str, type[Head]] = {}


def _head(name: str) -> Callable[[type], type]:
    def add(head: Any) -> Any:
        HEADS[name] = head
        return head

    return add


@_head("linear")
class LinearHead(nn.Linear):
    """One output per class of the whole stream, [N, D] -> [N, K], from the first step on; PyTorch's initialisation.

    Attributes:
        grows: False, the outputs are there from the start.
    """

    grows: ClassVar[bool] = False

    def __init__(self, num_features: int, num_classes: int) -> None:
        super().__init__(num_features, num_classes)

    @property
    def num_classes(self) -> int:
        """Outputs K."""
        return self.out_features

    def grow(self, num_classes: int) -> None:
        """Nothing: the task's outputs are there."""

    def newest_parameters(self) -> list[nn.Parameter]:
        """All of them, because every task trains every output."""
        return list(self.parameters())

    def old_parameters(self) -> list[nn.Parameter]:
        """None."""
        return []


class GrownHead(nn.Module):
    """Base of the heads that get the outputs of a task when it begins.

    A subclass says what a task adds, and implements `forward`: features [N, D] -> scores [N, classes so far].

    Args:
        num_features: D.
        rows_per_class: vectors that stand for a class.

    Attributes:
        grows: True.
        sizes: classes of each task so far.
        parts: what each task added, layers of weight [classes of the task · rows per class, D].
    """

    grows: ClassVar[bool] = True
    has_bias: ClassVar[bool] = False

    _place: Tensor

    def __init__(self, num_features: int, rows_per_class: int = 1) -> None:
        super().__init__()
        self.num_features = num_features
        self.rows_per_class = rows_per_class
        self.sizes: list[int] = []
        self.parts = nn.ModuleList()
        # Holds nothing, but moves with the head, and so gives the device of the first outputs.
        self.register_buffer("_place", torch.empty(0), persistent=False)

    @property
    def num_classes(self) -> int:
        """Classes so far."""
        return sum(self.sizes)

    def grow(self, num_classes: int) -> None:
        """Add the outputs of a task, drawn on the CPU by torch's global generator, in the head's device and type.

        Args:
            num_classes: of the task alone.

        Raises:
            ValueError: no classes.
        """
        self._append(num_classes, self.make_part(num_classes))

    def make_part(self, num_classes: int) -> nn.Linear:
        """What a task adds. PyTorch's initialisation is uniform within ±1/√D."""
        if num_classes < 1:
            raise ValueError(f"a task needs at least 1 class, not {num_classes}")
        return nn.Linear(self.num_features, num_classes * self.rows_per_class, bias=self.has_bias)

    def _append(self, num_classes: int, part: nn.Linear) -> None:
        self.parts.append(part.to(self._place.device, self._place.dtype))
        self.sizes.append(num_classes)

    @property
    def weight(self) -> Tensor:
        """Rows of all tasks, one after another, [rows, D]. Raises RuntimeError before the first task."""
        if not self.parts:
            raise RuntimeError("the head has no outputs yet: call grow when the first task begins")
        return torch.cat([part.weight for part in self._linear_parts()])

    def _linear_parts(self) -> list[nn.Linear]:
        return [part for part in self.parts if isinstance(part, nn.Linear)]

    def newest_parameters(self) -> list[nn.Parameter]:
        """Those of the newest task's outputs; a scale that all tasks share is in neither list."""
        return list(self.parts[-1:].parameters())

    def old_parameters(self) -> list[nn.Parameter]:
        """Those of the outputs of all tasks before the newest one."""
        return list(self.parts[:-1].parameters())


@_head("growing")
class GrowingHead(GrownHead):
    """A linear layer with bias per task, their outputs side by side (Masana et al., TPAMI 2023)."""

    has_bias = True

    def forward(self, features: Tensor) -> Tensor:
        """Scores [N, K] of features [N, D]."""
        return F.linear(features, self.weight, torch.cat([part.bias for part in self._linear_parts()]))


@_head("cosine")
class CosineHead(GrownHead):
    """LUCIR's classifier: sigma times the cosine of features and class vectors (Hou et al., CVPR 2019, eq. 3).

    Class vectors are uniform within ±1/√D at first.

    Args:
        num_features: D.

    Attributes:
        sigma: scale of all tasks [1], initially 1.
    """

    def __init__(self, num_features: int) -> None:
        super().__init__(num_features)
        self.sigma = nn.Parameter(torch.ones(1))

    def cosines(self, features: Tensor) -> Tensor:
        """Unscaled scores [N, K] in [-1, 1] of features [N, D]."""
        return _cosines(features, self.weight)

    def forward(self, features: Tensor) -> Tensor:
        """Scores [N, K] of features [N, D]."""
        return self.sigma * self.cosines(features)


@_head("proxy")
class ProxyHead(GrownHead):
    """PODNet's local similarity classifier, with several proxies per class (Douillard et al., ECCV 2020, eq. 8).

    A class scores s = Σ_p softmax(r)_p · r_p over its proxies p, where r_p = -‖h/‖h‖ - w_p/‖w_p‖‖².

    Args:
        num_features: D.
        num_proxies: P, proxies per class.

    Attributes:
        eta: the learned scale [1] that the loss multiplies the scores by, initially 1.
    """

    def __init__(self, num_features: int, num_proxies: int = 10) -> None:
        super().__init__(num_features, rows_per_class=num_proxies)
        self.eta = nn.Parameter(torch.ones(1))

    def grow(self, num_classes: int, centres: Tensor | None = None) -> None:
        """Add the proxies of a task, class after class.

        Args:
            num_classes: of the task alone.
            centres: the proxies [num_classes · P, D]; drawn from N(0, 1/D) by torch's global generator if None.

        Raises:
            ValueError: no classes, or centres of another shape.
        """
        part = self.make_part(num_classes)
        if centres is not None:
            if centres.shape != part.weight.shape:
                raise ValueError(f"centres must be {list(part.weight.shape)}, not {list(centres.shape)}")
            part.weight = nn.Parameter(centres.detach().clone())
        self._append(num_classes, part)

    def make_part(self, num_classes: int) -> nn.Linear:
        part = super().make_part(num_classes)
        nn.init.kaiming_normal_(part.weight, nonlinearity="linear")
        return part

    def forward(self, features: Tensor) -> Tensor:
        """Scores [N, K] of features [N, D], not scaled by eta."""
        # Both vectors have length 1.
        negative_distances = 2 * _cosines(features, self.weight) - 2
        grouped = negative_distances.unflatten(1, (self.num_classes, self.rows_per_class))
        return (grouped.softmax(2) * grouped).sum(2)


def _cosines(features: Tensor, weight: Tensor) -> Tensor:
    """Cosines [N, rows] of features [N, D] and rows [rows, D]; half precision keeps too few digits of them."""
    with torch.autocast(features.device.type, enabled=False):
        return F.linear(F.normalize(features.to(weight.dtype)), F.normalize(weight))


class Outputs(NamedTuple):
    """What a network gives, in float32 unless its weights are float64.

    Attributes:
        scores: [N, K].
        features: [N, D].
        maps: after each stage, [N, C, side, side]; none unless they were asked for.
    """

    scores: Tensor
    features: Tensor
    maps: list[Tensor]


AnyHead = TypeVar("AnyHead", bound=Head, covariant=True)


class Network(nn.Module, Generic[AnyHead]):
    """A backbone and a classifier on it: images [N, C, H, W] -> scores [N, K] in float32.

    Args:
        half: compute in bfloat16 where it is safe (autocast); weights and losses stay in float32.

    Attributes:
        keeps_rows_apart: nothing but norm layers lets the rows of a batch depend on each other, as is known of the
            suite's own backbones.
    """

    def __init__(self, backbone: BackbonePart, head: AnyHead, half: bool = False) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.half_precision = half
        self.keeps_rows_apart = type(backbone).__module__.startswith("backbone.") and takes_batches(self)
        self.passes = Passes()  # so far

    def arrange(self, memory_format: torch.memory_format) -> None:
        """Lay out the weights of convolutions in a memory format, which images and maps then have too."""
        arrange = getattr(self.backbone, "arrange", None)  # the backbone of a plug-in need not have it
        if arrange is None:
            self.to(memory_format=memory_format)
        else:
            arrange(memory_format)

    @contextlib.contextmanager
    def autocast(self) -> Iterator[None]:
        """The precision of every forward.

        Around several of one step, it rounds weights once for all of them; the optimizer must not step inside.
        """
        if not self.half_precision:
            yield
            return
        dtype, device = torch.bfloat16, next(self.parameters()).device.type
        # The backbone of a plug-in need not have it.
        rounded = getattr(self.backbone, "rounded_weights", contextlib.nullcontext)
        with torch.autocast(device, dtype=dtype), rounded(dtype):
            yield

    def forward(self, images: Tensor) -> Tensor:
        self.passes.count(len(images))
        with self.autocast():
            scores = self.head(self.backbone(images))
        return self._single(scores)

    def outputs(self, images: Tensor, maps: bool = False) -> Outputs:
        """Scores and features of images [N, C, H, W], by one forward; with `maps`, those too."""
        self.passes.count(len(images))
        with self.autocast():
            features, found = self.backbone.forward_maps(images) if maps else (self.backbone(images), [])
            scores = self.head(features)
        return Outputs(self._single(scores), self._single(features), [self._single(each) for each in found])

    def _single(self, values: Tensor) -> Tensor:
        return values.float() if self.half_precision else values
