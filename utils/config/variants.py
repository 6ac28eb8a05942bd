"""Norm layers that plans and tables know by a name of their own: a registered layer with its options set."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Variant:
    """A registered layer with options.

    Attributes:
        norm: name of the layer.
        options: by name.
    """

    norm: str
    options: Mapping[str, Any]

    @property
    def words(self) -> dict[str, list[str]]:
        """The options as words of a command line, by name."""
        return {name: [str(value)] for name, value in self.options.items()}

    def __str__(self) -> str:
        return " ".join([self.norm, *(f"--{name} {value}" for name, value in self.options.items())])


# Cha et al. (CVPR 2023) print a row CN* beside CN, which has 8 groups, without saying what it is: this suite's choice.
VARIANTS = {"CN*": Variant("CN", {"num_groups": 16})}


def find_variant(name: str) -> Variant:
    """What a name stands for, whatever its case; a name that is no variant's stands for the layer itself."""
    known = {variant.casefold(): found for variant, found in VARIANTS.items()}
    return known.get(name.casefold(), Variant(name, {}))


def row_of(values: Mapping[str, Any], axes: Collection[str] = ()) -> str:
    """The name under which a run with these options is shown: a variant's, else its layer's.

    Args:
        values: of the run, by name.
        axes: options whose values are shown elsewhere, so that none of them makes a variant.
    """
    for name, variant in VARIANTS.items():
        if variant.options.keys() & set(axes):
            continue
        if values["nl"] == variant.norm and all(values.get(key) == value for key, value in variant.options.items()):
            return name
    return values["nl"]
