"""The plot of how far running statistics are from those of the data of all tasks seen."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from utils.records.selection import Cell
from utils.report.norms import DISTANCES, mean_distances

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CAPTION = (
    "Distance of the running statistics from those of the training data of all tasks seen, in each norm layer (down, "
    "from the input on) after each task (across), mean over seeds. Of means: root mean square over channels of their "
    "difference in standard deviations of the data; of standard deviations: of the logarithm of their ratio."
)
_TITLES = {"mean": "of means", "std": "of standard deviations"}
_DECADES = 3  # of the colour scale, at most


def draw_distances(norms: Mapping[str, Cell], new_figure: Callable[[float, float], "Figure"]) -> "Figure | None":
    """A heat map per norm layer and kind of statistics, those of a kind on one scale; None if nothing was measured.

    Args:
        norms: the cells of a column.
        new_figure: makes a figure of a width and a height in inches.
    """
    tables = {
        (kind, norm): table
        for kind in DISTANCES
        for norm, cell in norms.items()
        if (table := mean_distances(cell, kind)) is not None
    }
    shown = list(dict.fromkeys(norm for _, norm in tables))
    if not shown:
        return None
    figure = new_figure(1.6 + 1.5 * len(shown), 5.4)
    panels = figure.subplots(len(DISTANCES), len(shown), squeeze=False)
    for kind, row in zip(DISTANCES, panels, strict=True):
        scale = _scale([table for (each, _), table in tables.items() if each == kind])
        for axes, norm in zip(row, shown, strict=True):
            image = _draw(axes, norm, tables.get((kind, norm)), scale)
        figure.colorbar(image, ax=list(row), label=_TITLES[kind], pad=0.01)
    figure.supxlabel("after task", fontsize=9)
    figure.supylabel("norm layer", fontsize=9)
    return figure


def _scale(tables: list[np.ndarray]) -> Any:
    """Logarithmic colours, which show a layer of small distances beside one of large ones."""
    from matplotlib.colors import LogNorm

    values = np.concatenate([table[np.isfinite(table) & (table > 0)] for table in tables])
    if not values.size:
        return LogNorm(1e-3, 1, clip=True)
    largest = float(values.max())
    return LogNorm(max(float(values.min()), largest * 10.0**-_DECADES) * (1 - 1e-9), largest, clip=True)


def _draw(axes: "Axes", norm: str, table: np.ndarray | None, scale: Any) -> Any:
    table = np.full((1, 1), np.nan) if table is None else table
    num_layers, num_tasks = table.shape
    image = axes.imshow(
        table,
        norm=scale,
        cmap="viridis",
        aspect="auto",
        interpolation="nearest",
        extent=(0.5, num_tasks + 0.5, num_layers + 0.5, 0.5),
    )
    axes.set_title(norm, fontsize=9, parse_math=False)
    axes.tick_params(labelsize=7, length=2)
    for axis in (axes.xaxis, axes.yaxis):
        axis.get_major_locator().set_params(integer=True)
    return image
