"""What is known of the parts of a run where their classes cannot be imported: each kind as a protocol."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from utils.config.options import Option

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
    def warnings(cls, values: dict[str, Any], norm: type[NormPart]) -> list[str]: ...

    @classmethod
    def measures_every_task(cls, head: str) -> bool: ...

    @classmethod
    def stages(cls, config: Any, sizes: Any, task: int) -> Any: ...

    @classmethod
    def num_exemplars(cls, config: Any, sizes: Any, num_seen: int) -> int: ...

    @classmethod
    def trained_rows(cls, config: Any, task: int, num_rows: int, num_remembered: int) -> int: ...
