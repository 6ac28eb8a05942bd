"""From the name of a normalization layer to the layer."""

from dataclasses import dataclass, field
from typing import Any

from .base import Norm
from .errors import NormError
from .registry import NORMS, constructor_arguments


@dataclass(frozen=True)
class NormFactory:
    """Makes layers of one kind with the same options: `factory(num_features, spatial_size)`.

    Attributes:
        layer: the class.
        options: its keyword arguments.
    """

    layer: type[Norm]
    options: dict[str, Any] = field(default_factory=dict)

    def __call__(self, num_features: int, spatial_size: int | None = None) -> Norm:
        """A layer for C channels of maps of this side.

        Raises:
            NormError: a layer with these options cannot be made.
        """
        return self.layer(num_features, spatial_size=spatial_size, **self.options)


def norm_factory(name: str, *, num_tasks: int | None = None, **options: Any) -> NormFactory:
    """What a backbone calls as `norm(num_features, spatial_size)` to make each of its layers.

    Args:
        name: of the layer, such as `AdaB2N`.
        num_tasks: tasks of the stream; layers that have nothing for every task do not use it.
        options: of the layer; `affine=None` leaves it to the layer.

    Raises:
        NormError: the layer or an option is unknown, or `affine` is no truth value.
    """
    layer = NORMS.get(name)
    accepted = [name for name in constructor_arguments(layer) if name not in ("num_features", "spatial_size")]
    for option in options:
        if option not in accepted:
            raise NormError(f"{layer.name} has no option {option!r}; it has {', '.join(accepted)}")
    if options.get("affine", True) is None:
        del options["affine"]
    if options.get("affine", True) not in (True, False):  # such as "false", which would count as true
        raise NormError(f"{layer.name}: affine is True, False or None, not {options['affine']!r}")
    if "num_tasks" in accepted:
        options["num_tasks"] = num_tasks
    return NormFactory(layer, options)


def build_norm(name: str, num_features: int, *, spatial_size: int | None = None, **options: Any) -> Norm:
    """One layer.

    Args:
        name: of the layer, such as `AdaB2N`.
        num_features: channels C.
        spatial_size: side S of the maps; needed by LN.
        options: as for `norm_factory`.

    Raises:
        NormError: the layer or an option is unknown, or they do not fit the channels.
    """
    return norm_factory(name, **options)(num_features, spatial_size)
