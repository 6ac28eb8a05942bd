"""The parts of a run: what each kind declares, as a protocol, since their classes cannot be imported here; and `Parts`,
the classes that one run is put together from.
"""

import inspect
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from backbone.norm.errors import NormError
from utils.config.code import unreleased_code
from utils.config.options import Option, changed
from utils.config.protocols import PROTOCOLS
from utils.config.registry import BACKBONES, DATASETS, METHODS, NORMS, STREAMS

if TYPE_CHECKING:
    from torch import Tensor, nn


class Part(Protocol):
    """A class that is chosen by its name, and brings its own options."""

    name: str
    options: tuple[Option, ...]


class NormPart(Part, Protocol):
    """A norm layer (`backbone/norm/base.py`)."""

    regularizer_options: tuple[Option, ...]
    protocol_defaults: dict[str, dict[str, Any]]
    needs_joint: bool
    undecayed: tuple[str, ...]

    def __init__(self, num_features: int, **settings: Any) -> None: ...

    def named_parameters(self) -> "Iterator[tuple[str, nn.Parameter]]": ...

    def take_relu(self) -> bool: ...

    def state_dict(self) -> dict[str, Any]: ...


class BackbonePart(Part, Protocol):
    """The network under the classifier (`backbone/blocks.py`), an `nn.Module`; its features are [N, D].

    Attributes:
        num_features: D.
    """

    num_features: int

    def __init__(self, norm: Any, *, image_size: int, **options: Any) -> None: ...

    def __call__(self, images: "Tensor") -> "Tensor": ...

    def forward_maps(self, x: "Tensor") -> "tuple[Tensor, list[Tensor]]": ...

    def drop_last_relu(self, stage: str) -> None: ...

    def modules(self) -> "Iterator[nn.Module]": ...

    def parameters(self) -> "Iterator[nn.Parameter]": ...

    def state_dict(self) -> "dict[str, Tensor]": ...


class DatasetPart(Part, Protocol):
    """A dataset (`datasets/arrays.py`); `load` gives its arrays, `transform` one of `utils/data/augment.py`."""

    num_tasks: int
    task_sizes: tuple[int, ...] | None
    num_classes: int | None
    image_size: int | None
    transforms: Mapping[str, Mapping[str, Any]]
    protocol_values: dict[str, dict[str, Any]]
    class_orders: Mapping[str, str]

    def __init__(self, **options: Any) -> None: ...

    def load(self, data_root: Any) -> Any: ...

    def transform(self, protocol: str, arrays: Any) -> Any: ...


class StreamPart(Part, Protocol):
    """When which images come (`datasets/arrangement.py`), which is made without reading one."""

    boundaries: str
    is_shuffled: bool

    def __init__(self, dataset: Any = None, **options: Any) -> None: ...

    @classmethod
    def identity_values(cls, values: dict[str, Any], dataset: Any) -> dict[str, Any]: ...

    def num_tasks(self, num_classes: int | None) -> int | None: ...

    def task_sizes(self, num_classes: int, seed: int) -> tuple[int, ...]: ...

    def arrange(self, labels: Any, task_of_class: Any, seed: int) -> Any: ...


class MethodPart(Part, Protocol):
    """What a method (`models/base.py`) says of itself before there is a network or an image."""

    uses_memory: bool
    keeps_exemplars: bool
    needs_boundaries: bool
    transforms: str | None
    heads: tuple[str, ...]
    protocol: str
    backbone_methods: tuple[str, ...]
    schedule: str

    @classmethod
    def published_setting(cls, dataset: str, buffer_size: int | None, protocol: str) -> Any: ...

    @classmethod
    def resolve_auto(cls, values: dict[str, Any], norm: type[NormPart]) -> dict[str, Any]: ...

    @classmethod
    def check(cls, values: dict[str, Any], num_classes: int | None) -> None: ...

    @classmethod
    def identity_values(cls, values: dict[str, Any], backbone: type[BackbonePart]) -> dict[str, Any]: ...

    @classmethod
    def replays_at_once(cls, boundaries: str) -> bool: ...

    @classmethod
    def warnings(cls, values: dict[str, Any], norm: type[NormPart]) -> list[str]: ...

    @classmethod
    def measures_every_task(cls, head: str) -> bool: ...

    @classmethod
    def stages(cls, config: Any, sizes: Any, task: int) -> Any: ...

    @classmethod
    def num_exemplars(cls, config: Any, sizes: Any, num_seen: int) -> int: ...

    @classmethod
    def trained_rows(cls, config: Any, task: int, num_rows: int, num_remembered: int) -> int: ...


def options_of(part: Any) -> tuple[Option, ...]:
    """All options that a part declares, including those of a norm layer's regularizer, which the method reads."""
    return (*part.options, *getattr(part, "regularizer_options", ()))


def under_headings(parts: Mapping[str, type[Part]]) -> Iterable[Option]:
    """The options of parts, given by their kind, under the headings that `--help` shows, such as `norm layer CN`."""
    for kind, part in parts.items():
        for option in options_of(part):
            yield replace(option, group=option.group or f"{kind} {part.name}")


@dataclass(frozen=True)
class Parts:
    """The classes that a run is put together from.

    Attributes:
        method, dataset, stream, norm, backbone: the registered classes.
        head: the kind of classifier (`models/heads.py`).
    """

    method: type[MethodPart]
    dataset: type[DatasetPart]
    stream: type[StreamPart]
    norm: type[NormPart]
    backbone: type[BackbonePart]
    head: str

    @property
    def unreleased_code(self) -> tuple[str, ...]:
        """Digests of the parts' files that differ from the released ones (`utils/config/code.py`)."""
        return unreleased_code((self.method, self.dataset, self.stream, self.norm, self.backbone))

    def options(self) -> tuple[Option, ...]:
        """The options of these parts, without those that need memory rows if the method has no memory."""
        method = self.method
        kinds = {
            METHODS.kind: method,
            DATASETS.kind: self.dataset,
            STREAMS.kind: self.stream,
            NORMS.kind: self.norm,
            BACKBONES.kind: self.backbone,
        }
        found = [option for option in under_headings(kinds) if method.uses_memory or not option.needs_memory]
        if getattr(self.dataset, "task_sizes", None) is None:
            found = list(changed(found, n_tasks={"default": getattr(self.dataset, "num_tasks", None)}))
        if method.replays_at_once(self.stream.boundaries):
            return tuple(found)
        return tuple(replace(option, min_tasks=max(option.min_tasks, 1 + option.needs_memory)) for option in found)

    def transforms(self, protocol: str) -> str:
        """The name of the transforms to use: the method's own if the dataset has them, or else the protocol's."""
        own = self.method.transforms
        return own if own is not None and own in self.dataset.transforms else protocol

    def facts(self, values: Mapping[str, Any], options: Iterable[Option]) -> dict[str, Any]:
        """What an option's `Condition` may refer to besides the values of other options."""
        facts: dict[str, Any] = {"num_tasks": self.arrangement(values).num_tasks(self.dataset.num_classes)}
        if "protocol" in values:
            facts["transforms"] = self.transforms(values["protocol"])
        for name in (name for option in options for condition in option.active_when for name in condition.of):
            part, dot, attribute = name.partition(".")
            if dot and hasattr(getattr(self, part), attribute):
                facts[name] = getattr(getattr(self, part), attribute)
        return facts

    def arrangement(self, values: Mapping[str, Any]) -> StreamPart:
        """The stream of a run with these values, made without reading an image."""
        options = {option.name: values[option.name] for option in self.stream.options if option.name in values}
        return self.stream(self.dataset, **options)

    def norm_layer(self, values: Mapping[str, Any], num_features: int, spatial_size: int) -> NormPart:
        """A norm layer of a run with these values, for two tasks. Raises NormError if it cannot take these channels."""
        more = {"num_tasks": 2} if "num_tasks" in inspect.signature(self.norm).parameters else {}
        options = {option.name: values[option.name] for option in self.norm.options if option.name in values}
        return self.norm(num_features, spatial_size=spatial_size, affine=values["affine"], **options, **more)

    def decays_norms(self, values: Mapping[str, Any]) -> bool:
        """Whether weight decay applies to any parameter of the norm layers; True if that cannot be determined."""
        try:
            layer = self.norm_layer(values, 64, 8)
        except NormError:
            return True
        layer.take_relu()
        return any(name not in layer.undecayed for name, _ in layer.named_parameters())

    def order_rule(self, protocol: str) -> str:
        """The class order rule of a protocol: the dataset's own, or else the protocol's."""
        return self.dataset.class_orders.get(protocol, PROTOCOLS[protocol].class_order)
