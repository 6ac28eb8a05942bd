"""The plot of accuracy on each task after each task."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from utils.errors import UserError
from utils.records.collect import Run
from utils.records.metrics import accuracies
from utils.records.record import Record
from utils.records.selection import Cell
from utils.report.canvas import new_panels, shown_name
from utils.report.tables import SCENARIOS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CAPTION = "Accuracy on each task (across) after each task (down), in each scenario that was measured, mean over seeds."
_MOST_BESIDE = 5
_MOST_NUMBERED_TASKS = 10  # of a heat map whose cells have room for a number
_LONGEST_NAME = 16  # over a heat map


def draw_matrices(norms: Mapping[str, Cell]) -> "Figure | None":
    """A heat map per scenario and norm layer, the scenarios below each other; None if nothing was measured."""
    matrices = {norm: _mean_matrices(cell) for norm, cell in norms.items()}
    by_scenario = {
        scenario: {norm: found[scenario] for norm, found in matrices.items() if scenario in found}
        for scenario in SCENARIOS
    }
    rows = [row for scenario, found in by_scenario.items() for row in _rows(scenario, found)]
    if not rows:
        return None
    num_columns = max(len(row) for _, row in rows)
    width, height = 1.65 + 1.75 * num_columns, 1.05 + 1.75 * len(rows)
    figure, panels = new_panels(width, height, 1.0, len(rows), num_columns)
    figure.subplots_adjust(wspace=0.2, hspace=0.35)
    for (scenario, row), axes in zip(rows, panels.reshape(len(rows), num_columns), strict=True):
        image = _draw_row(SCENARIOS[scenario], row, axes)
    bar = figure.add_axes((1 - 0.8 / width, 0.55 / height, 0.14 / width, 1 - 1.15 / height))
    figure.colorbar(image, cax=bar).set_label("accuracy (%)", fontsize=8)
    bar.tick_params(labelsize=7)
    figure.supxlabel("on task", fontsize=9, y=0.1 / height)
    return figure


def _rows(scenario: str, matrices: Mapping[str, np.ndarray]) -> list[tuple[str, dict[str, np.ndarray]]]:
    """As many heat maps in each row as fit beside each other."""
    found = list(matrices.items())
    return [(scenario, dict(found[first : first + _MOST_BESIDE])) for first in range(0, len(found), _MOST_BESIDE)]


def _draw_row(title: str, matrices: Mapping[str, np.ndarray], panels: Sequence["Axes"]) -> Any:
    for axes, (norm, matrix) in zip(panels, matrices.items(), strict=False):
        image = _draw_matrix(axes, norm, matrix)
    panels[0].set_ylabel(f"{title}\nafter task", fontsize=9)
    for axes in panels[len(matrices) :]:
        axes.set_axis_off()
    return image


def _draw_matrix(axes: "Axes", norm: str, matrix: np.ndarray) -> Any:
    num_tasks = len(matrix)
    limits = (0.5, num_tasks + 0.5)
    image = axes.imshow(matrix, vmin=0, vmax=100, cmap="viridis", extent=(*limits, *limits[::-1]))
    axes.set_title(shown_name(norm, _LONGEST_NAME), fontsize=9, parse_math=False)
    axes.tick_params(labelsize=7, length=2)
    for axis in (axes.xaxis, axes.yaxis):
        axis.get_major_locator().set_params(integer=True)
        if num_tasks <= _MOST_NUMBERED_TASKS:
            axis.set_ticks(range(1, num_tasks + 1))
    for (row, column), value in np.ndenumerate(matrix):
        if num_tasks <= _MOST_NUMBERED_TASKS and not math.isnan(value):
            colour = "black" if value > 60 else "white"
            size = 7.5 if num_tasks <= 6 else 5.5
            axes.text(column + 1, row + 1, f"{value:.0f}", ha="center", va="center", fontsize=size, color=colour)
    return image


def _mean_matrices(cell: Cell) -> dict[str, np.ndarray]:
    """The accuracy matrix [T, T] of each scenario that was measured, NaN for tasks not seen yet.

    The mean is over the seeds whose record still tells it.
    """
    read = [matrices for run in cell.runs.values() if (matrices := _read_matrices(run)) is not None]
    read = [matrices for matrices in read if matrices.shape == read[0].shape]
    if not read:
        return {}
    means = np.where(np.tri(read[0].shape[1], dtype=bool), np.mean(read, axis=0), np.nan)
    return {name: mean for name, mean in zip(SCENARIOS, means, strict=True) if np.isfinite(mean).any()}


def _read_matrices(run: Run) -> np.ndarray | None:
    """Accuracy in percent [scenarios, T, T]."""
    try:
        counts = Record(Path(run.folder)).read_result()["counts"]
        return np.stack([accuracies(counts[scenario], counts["total"]) for scenario in SCENARIOS])
    except (UserError, OSError, LookupError, TypeError, ValueError, ArithmeticError, RecursionError):
        return None  # the record was taken away or damaged after it was collected
