"""Named grids, and the axes that a command line changes of them. Nothing here imports torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from utils.errors import UserError
from utils.records.selection import ORACLE

OTHERS = "*"  # datasets that an axis does not name

_OF_ADAB2N = ("kappa", "lambd", "ada_t0")  # what its study searches

Values = Mapping[str, tuple[Any, ...]]  # of an option, by dataset


@dataclass(frozen=True)
class Grid:
    """A product of runs.

    Attributes:
        seeds, datasets, models, methods: what rows, columns and repetitions of a table are; `methods` are norm layers
            or variants of one (`utils/config/variants.py`), as users of the AdaB2N launcher know them.
        axes: values of further options, by option and dataset; each run takes those that its parts use.
        searched: axes of whose values one is chosen, by name; each value of the others is a column of its own.
        selection: what the settings of a cell are judged on, `oracle` or `validation`.
        search_seeds: seeds on which all settings are run, the other seeds being left to the best; None: all of them.
        epochs_are_online: whether the axis `epochs` is for the online protocol alone, so that others take their own.
        fixed: further words of every run's command line.
        typed: what a command line changed, by name.
    """

    seeds: tuple[int, ...]
    datasets: tuple[str, ...]
    models: tuple[str, ...]
    methods: tuple[str, ...]
    axes: Mapping[str, Values] = field(default_factory=dict)
    searched: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()
    selection: str = ORACLE
    search_seeds: tuple[int, ...] | None = None
    typed: frozenset[str] = frozenset()
    epochs_are_online: bool = False


# Lyu et al., NeurIPS 2023: what their launcher runs.
_ADAB2N_ONLINE = Grid(
    seeds=(0, 1, 2),
    datasets=("seq-cifar10", "seq-cifar100", "seq-miniimg"),
    models=("derpp", "er_ace"),
    methods=("BN", "LN", "IN", "GN", "CN", "AdaB2N"),
    axes={
        "epochs": {OTHERS: (1,)},
        "buffer_size": {"seq-cifar10": (500, 2000), OTHERS: (2000, 5000), "seq-digits": (200,)},
        "kappa": {OTHERS: (0.1, 0.4, 0.7, 1.0)},
        "lambd": {OTHERS: (0.01, 0.1, 1.0, 10.0), "seq-miniimg": (1e-5, 1e-4, 1e-3, 1e-2)},
        "ada_t0": {OTHERS: (0, 1)},
    },
    searched=_OF_ADAB2N,
)

# Cha et al., CVPR 2023: single runs.
_TBBN_LAYERS = Grid(
    seeds=(0,),
    datasets=("seq-cifar100", "seq-imagenet100"),
    models=("ft",),
    methods=("BN", "IN", "GN", "SN", "BRN", "CN", "CN*", "TBBN"),
    axes={"buffer_size": {OTHERS: (2000,), "seq-digits": (100,)}},
)

GRIDS: dict[str, Grid] = {
    "adab2n-online": _ADAB2N_ONLINE,
    "adab2n-50epochs": Grid(
        **{
            **vars(_ADAB2N_ONLINE),
            "axes": {**_ADAB2N_ONLINE.axes, "epochs": {OTHERS: (50,)}},
            "fixed": ("--batch_size", "32", "--minibatch_size", "32"),
        }
    ),
    "tbbn-layers": _TBBN_LAYERS,
    "tbbn-methods": Grid(
        **{
            **vars(_TBBN_LAYERS),
            "models": ("ft", "eeil", "lucir", "podnet", "ssil", "afc"),
            "methods": ("BN", "CN", "TBBN"),
        }
    ),
    # Their opening experiment, with every layer. Other widths than the published ones may need the adjusted groups.
    "bn-bias": Grid(
        **{
            **vars(_TBBN_LAYERS),
            "datasets": ("seq-cifar100",),
            "methods": ("BN", "LN", "IN", "GN", "SN", "BRN", "CN", "TBBN", "AdaB2N"),
            "searched": _OF_ADAB2N,
            "fixed": ("--retune_norms", "5", "--adjust_groups"),
        }
    ),
    # Minutes on two cores, on the embedded digits; the width is one that eight groups divide.
    "demo": Grid(
        seeds=(0, 1),
        datasets=("seq-digits",),
        models=("er_ace", "er"),
        methods=("BN", "GN", "CN", "TBBN", "AdaB2N"),
        axes={"epochs": {OTHERS: (1,)}, "buffer_size": {OTHERS: (200,)}, "kappa": {OTHERS: (0.4, 1.0)}},
        searched=_OF_ADAB2N,
        fixed=("--nf", "16", "--lr", "0.05", "--num_groups", "8"),
    ),
}
DEFAULT_GRID = "adab2n-online"


def find_grid(name: str) -> Grid:
    """The grid of that name. Raises UserError if it is unknown."""
    if name not in GRIDS:
        raise UserError(f"unknown preset {name!r}. Known: {', '.join(GRIDS)}.")
    return GRIDS[name]


def change(grid: Grid, typed: Mapping[str, Any]) -> Grid:
    """The grid with what was typed, by attribute or, of an axis, by option; a typed axis holds on every dataset.

    Raises:
        UserError: an axis is left without a value.
    """
    for name, values in typed.items():
        if not values and name != "searched":
            raise UserError(f"--{name} has no value, so that there is nothing to run")
    attributes = {name: values for name, values in typed.items() if name in vars(grid)}
    axes = {name: {OTHERS: values} for name, values in typed.items() if name not in attributes}
    return Grid(**{**vars(grid), **attributes, "axes": {**grid.axes, **axes}, "typed": frozenset(typed)})
