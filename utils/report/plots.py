"""Plots of a report as files in memory; matplotlib is imported where it draws."""

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from utils.config.protocols import PROTOCOLS
from utils.records.metrics import MAIN_METRIC, METRICS, accuracies
from utils.records.selection import Cell
from utils.report.names import PUBLISHED_NAMES, shown
from utils.report.norms import DISTANCES, mean_distances
from utils.report.stats import mean_and_std
from utils.report.tables import (
    SCENARIOS,
    Cells,
    column_order,
    column_title,
    in_order,
    protocol_of,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe & Ito's palette, which colour-blind readers can tell apart, without its yellow, and two greys.
_STYLES = {
    "BN": ("#000000", "o"),
    "LN": ("#56b4e9", "P"),
    "IN": ("#e69f00", "X"),
    "GN": ("#009e73", "^"),
    "SN": ("#8c6d31", "<"),
    "BRN": ("#808080", ">"),
    "CN": ("#cc79a7", "v"),
    "CN*": ("#882255", "h"),
    "TBBN": ("#0072b2", "D"),
    "AdaB2N": ("#d55e00", "s"),
}
_FURTHER_STYLES = (("#332288", "p"), ("#44aa99", "*"), ("#999933", "d"))

PLOTS = {
    "accuracy": "Average accuracy over the tasks seen, after each task; the band is ± one sample standard deviation.",
    "forgetting": "Forgetting against final accuracy; best is lower right; bars are ± one sample standard deviation.",
    "matrix": "Accuracy on each task (across) after each task (down), in each scenario that was measured, "
    "mean over seeds.",
    "distances": "Distance of the running statistics from those of the training data of all tasks seen, in each norm "
    "layer (down, from the input on) after each task (across), mean over seeds. Of means: root mean square over "
    "channels of their difference in standard deviations of the data; of standard deviations: of the logarithm of "
    "their ratio.",
}

_DPI = 110
_MOST_BESIDE = 5
_MOST_NUMBERED_TASKS = 10  # of a heat map whose cells have room for a number
_LONGEST_NAME = 16  # over a heat map
_STATISTICS = {"mean": "of means", "std": "of standard deviations"}
_DECADES = 3  # of the colour scale, at most


@dataclass(frozen=True)
class Plot:
    """A plot as the bytes of its files: the same figures give the same bytes.

    Attributes:
        title: as it is drawn, of the column.
        png: as wide as a page on a screen.
        narrow: the same for a narrow one; None where it cannot be drawn narrower.
        pdf, svg: to publish.
    """

    title: str
    png: bytes
    narrow: bytes | None
    pdf: bytes
    svg: bytes


def make_plots(cells: Cells, names: Mapping[str, str] = PUBLISHED_NAMES) -> dict[str, Plot]:
    """A plot per column and kind, by `<column's title> <kind>`, kinds as in `PLOTS`; none without figures.

    Args:
        cells: by column and norm layer.
        names: that are drawn in place of those of datasets, methods and norm layers.
    """
    styles = _styles({norm for norms in cells.values() for norm in norms})
    found = {}
    for column in sorted(cells, key=column_order):
        norms = {norm: cells[column][norm] for norm in styles if norm in cells[column] and cells[column][norm].runs}
        named = {shown(names, norm): cell for norm, cell in norms.items()}
        drawn_styles = {shown(names, norm): style for norm, style in styles.items()}
        drawings = {
            "accuracy": partial(_draw_accuracy, named, drawn_styles),
            "forgetting": partial(_draw_forgetting, named, drawn_styles),
            "matrix": partial(draw_matrices, named),
        }
        title, drawn = column_title(column, cells), column_title(column, cells, names)
        for kind, draw in drawings.items():
            figure = draw()
            if figure is not None:
                found[f"{title} {kind}"] = _save(figure, drawn, narrow=draw(is_narrow=True))
        figure = draw_distances(named)
        if figure is not None:
            found[f"{title} distances"] = _save(figure, drawn)
    return found


def _styles(norms: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker of each norm layer, the same in every plot, in the order of the table's rows."""
    ordered = in_order(norms)
    others = [name for name in ordered if name not in _STYLES]
    further = {name: _FURTHER_STYLES[index % len(_FURTHER_STYLES)] for index, name in enumerate(others)}
    return {name: _STYLES.get(name) or further[name] for name in ordered}


def _new_pair(norms: Iterable[str], is_narrow: bool) -> tuple["Figure", dict[str, "Axes"]]:
    """A figure with a panel per scenario and room for the names of the layers: on the right, or below if narrow."""
    names = [shown_name(norm) for norm in norms]
    longest = max(map(len, names))
    if is_narrow:
        legend = 0.35 + 0.19 * math.ceil(len(names) / _names_beside(names))
        figure, panels = new_panels(4.2, 6.0 + legend, right=0.15, num_rows=2, num_columns=1, below=legend)
        figure.subplots_adjust(hspace=0.4)
    else:
        figure, panels = new_panels(7.8 + 0.07 * longest, 3.5, right=0.6 + 0.07 * longest)
        figure.subplots_adjust(wspace=0.25)
    return figure, dict(zip(SCENARIOS, panels, strict=True))


def _names_beside(names: Iterable[str]) -> int:
    """Names of layers that stand beside each other below a narrow figure."""
    return max(1, 44 // (6 + max(map(len, names))))


def _save(figure: "Figure", title: str, narrow: "Figure | None" = None) -> Plot:
    from matplotlib import rc_context

    def save(which: "Figure", form: str, longest: int, **metadata: None) -> bytes:
        # Names from users are text here: a dollar sign is no formula.
        top = 1 - 0.12 / which.get_figheight()
        which.suptitle(shown_name(title, longest), y=top, fontsize=10, parse_math=False)
        out = io.BytesIO()
        which.savefig(out, format=form, metadata=metadata)
        return out.getvalue()

    # Without versions, dates and random names in them, the same figures give the same bytes.
    with rc_context({"svg.hashsalt": "plots"}):
        return Plot(
            title=title,
            png=save(figure, "png", 120, Software=None),
            narrow=None if narrow is None else save(narrow, "png", 48, Software=None),
            pdf=save(figure, "pdf", 120, CreationDate=None, Creator=None, Producer=None),
            svg=save(figure, "svg", 120, Date=None, Creator=None),
        )


def _draw_accuracy(
    norms: Mapping[str, Cell], styles: Mapping[str, tuple[str, str]], is_narrow: bool = False
) -> "Figure | None":
    curves = {
        (scenario, norm): curve
        for scenario in SCENARIOS
        for norm, cell in norms.items()
        if (curve := _curve(cell, scenario)) is not None
    }
    if not curves:
        return None
    figure, panels = _new_pair(norms, is_narrow)
    for (scenario, norm), (mean, std) in curves.items():
        colour, marker = styles[norm]
        tasks = np.arange(1, len(mean) + 1)
        panels[scenario].plot(
            tasks, mean, color=colour, marker=marker, markersize=4, linewidth=1.4, label=shown_name(norm)
        )
        panels[scenario].fill_between(tasks, mean - std, mean + std, color=colour, alpha=0.15, linewidth=0)
    for scenario, axes in panels.items():
        _label(axes, SCENARIOS[scenario], "tasks seen", "average accuracy (%)")
        _number_wholly(axes.xaxis)
        axes.set_ylim(max(axes.get_ylim()[0], -3), min(axes.get_ylim()[1], 103))
    _legend(figure, panels.values(), is_narrow)
    return figure


def _curve(cell: Cell, scenario: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Mean and sample standard deviation over seeds [T], the latter 0 for one seed; None if nothing was measured."""
    lists = [run.metrics[scenario].get("A") or [] for run in cell.runs.values()]
    lists = [values for values in lists if len(values) == len(lists[0])]
    values = np.array(lists, dtype=float)
    if not values.size or not np.isfinite(values).any():
        return None
    return values.mean(axis=0), values.std(axis=0, ddof=1) if len(values) > 1 else np.zeros(values.shape[1])


def _draw_forgetting(
    norms: Mapping[str, Cell], styles: Mapping[str, tuple[str, str]], is_narrow: bool = False
) -> "Figure | None":
    leading = PROTOCOLS[protocol_of(norms)].leading_metrics
    metric = next((name for name in leading if METRICS[name].lower_is_better), "forgetting")
    points = {
        (scenario, norm): point
        for scenario in SCENARIOS
        for norm, cell in norms.items()
        if (point := _point(cell, scenario, metric)) is not None
    }
    if not points:
        return None
    figure, panels = _new_pair(norms, is_narrow)
    for (scenario, norm), (across, up) in points.items():
        colour, marker = styles[norm]
        panels[scenario].errorbar(across[0], up[0], xerr=across[1], yerr=up[1], fmt="none", ecolor=colour, elinewidth=1)
        panels[scenario].plot(across[0], up[0], color=colour, marker=marker, markersize=7, lw=0, label=shown_name(norm))
    for scenario, axes in panels.items():
        _label(axes, SCENARIOS[scenario], f"final average accuracy {MAIN_METRIC} (%)", f"{metric} (percentage points)")
        axes.margins(0.15)
    _legend(figure, panels.values(), is_narrow)
    return figure


def _point(cell: Cell, scenario: str, metric: str) -> tuple[tuple, tuple] | None:
    """Mean and spread of final accuracy and of forgetting."""
    figures = [mean_and_std(list(cell.values(scenario, name).values())) for name in (MAIN_METRIC, metric)]
    return None if any(mean is None for mean, _ in figures) else (figures[0], figures[1])


def _label(axes: "Axes", title: str, across: str, up: str) -> None:
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(across, fontsize=9)
    axes.set_ylabel(up, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _legend(figure: "Figure", panels: Iterable["Axes"], is_narrow: bool) -> None:
    """One legend for all panels, on the right, or below if narrow."""
    entries: dict[str, Any] = {}
    for axes in panels:
        handles, labels = axes.get_legend_handles_labels()
        entries = {**dict(zip(labels, handles, strict=True)), **entries}
    place = {"loc": "lower center", "ncols": _names_beside(entries)} if is_narrow else {"loc": "center right"}
    legend = figure.legend(entries.values(), entries.keys(), fontsize=8, frameon=False, **place)
    for text in legend.get_texts():
        text.set_parse_math(False)


# -- Accuracy on each task after each task ----------------------------------------------------------------------------


def draw_matrices(norms: Mapping[str, Cell], is_narrow: bool = False) -> "Figure | None":
    """A heat map per scenario and norm layer, the scenarios below each other; None if nothing was measured."""
    matrices = {norm: _mean_matrices(cell) for norm, cell in norms.items()}
    by_scenario = {
        scenario: {norm: found[scenario] for norm, found in matrices.items() if scenario in found}
        for scenario in SCENARIOS
    }
    rows = [
        row
        for scenario, found in by_scenario.items()
        for row in _matrix_rows(scenario, found, 2 if is_narrow else _MOST_BESIDE)
    ]
    if not rows:
        return None
    num_columns = max(len(row) for _, row in rows)
    width, height = 1.65 + 1.75 * num_columns, 1.05 + 1.75 * len(rows)
    figure, panels = new_panels(width, height, 1.0, len(rows), num_columns)
    figure.subplots_adjust(wspace=0.2, hspace=0.35)
    for (scenario, row), axes in zip(rows, panels.reshape(len(rows), num_columns), strict=True):
        image = _draw_matrix_row(SCENARIOS[scenario], row, axes)
    bar = figure.add_axes((1 - 0.8 / width, 0.55 / height, 0.14 / width, 1 - 1.15 / height))
    figure.colorbar(image, cax=bar).set_label("accuracy (%)", fontsize=8)
    bar.tick_params(labelsize=7)
    figure.supxlabel("on task", fontsize=9, y=0.1 / height)
    return figure


def _matrix_rows(
    scenario: str, matrices: Mapping[str, np.ndarray], most_beside: int
) -> list[tuple[str, dict[str, np.ndarray]]]:
    """As many heat maps in each row as fit beside each other."""
    found = list(matrices.items())
    return [(scenario, dict(found[first : first + most_beside])) for first in range(0, len(found), most_beside)]


def _draw_matrix_row(title: str, matrices: Mapping[str, np.ndarray], panels: Sequence["Axes"]) -> Any:
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
        _number_wholly(axis)
        if num_tasks <= _MOST_NUMBERED_TASKS:
            axis.set_ticks(range(1, num_tasks + 1))
    for (row, column), value in np.ndenumerate(matrix):
        if num_tasks <= _MOST_NUMBERED_TASKS and not math.isnan(value):
            colour = "black" if value > 60 else "white"
            size = 7.5 if num_tasks <= 6 else 5.5
            axes.text(column + 1, row + 1, f"{value:.0f}", ha="center", va="center", fontsize=size, color=colour)
    return image


def _mean_matrices(cell: Cell) -> dict[str, np.ndarray]:
    """The accuracy matrix [T, T] of each scenario that was measured, NaN for tasks not seen yet; mean over seeds."""
    counts = [counts for run in cell.runs.values() if (counts := run.known_result.counts)]
    found = [np.stack([accuracies(each[name], each["total"]) for name in SCENARIOS]) for each in counts]
    found = [matrices for matrices in found if matrices.shape == found[0].shape]
    if not found:
        return {}
    means = np.where(np.tri(found[0].shape[1], dtype=bool), np.mean(found, axis=0), np.nan)
    return {name: mean for name, mean in zip(SCENARIOS, means, strict=True) if np.isfinite(mean).any()}


# -- Distance of the running statistics -------------------------------------------------------------------------------


def draw_distances(norms: Mapping[str, Cell]) -> "Figure | None":
    """A heat map per norm layer and kind of statistics, those of a kind on one scale; None if nothing was measured."""
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
        scale = _colour_scale([table for (each, _), table in tables.items() if each == kind])
        for axes, norm in zip(row, shown, strict=True):
            image = _draw_panel(axes, norm, tables.get((kind, norm)), scale)
        figure.colorbar(image, ax=list(row), label=_STATISTICS[kind], pad=0.01)
    figure.supxlabel("after task", fontsize=9)
    figure.supylabel("norm layer", fontsize=9)
    return figure


def _colour_scale(tables: list[np.ndarray]) -> Any:
    """Logarithmic colours, which show a layer of small distances beside one of large ones."""
    from matplotlib.colors import LogNorm

    values = np.concatenate([table[np.isfinite(table) & (table > 0)] for table in tables])
    if not values.size:
        return LogNorm(1e-3, 1, clip=True)
    largest = float(values.max())
    return LogNorm(max(float(values.min()), largest * 10.0**-_DECADES) * (1 - 1e-9), largest, clip=True)


def _draw_panel(axes: "Axes", norm: str, table: np.ndarray | None, scale: Any) -> Any:
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
        _number_wholly(axis)
    return image


# -- What all of them are drawn on ------------------------------------------------------------------------------------


def _number_wholly(axis: Any) -> None:
    """Let an axis have its numbers at whole ones alone."""
    axis.get_major_locator().set_params(integer=True)


def new_figure(width: float, height: float, layout: Literal["constrained"] | None = "constrained") -> "Figure":
    """An empty figure of that size in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=_DPI, layout=layout)
    FigureCanvasAgg(figure)
    return figure


def new_panels(
    width: float, height: float, right: float, num_rows: int = 1, num_columns: int = 2, below: float = 0.0
) -> tuple:
    """A figure of that size in inches, and its panels; `right` and `below` are room for what stands beside them.

    The margins are fixed, since having them fitted takes several times as long as drawing.
    """
    figure = new_figure(width, height, layout=None)
    panels = figure.subplots(num_rows, num_columns, squeeze=False).ravel()
    figure.subplots_adjust(
        left=0.65 / width, right=1 - right / width, bottom=(0.55 + below) / height, top=1 - 0.6 / height
    )
    return figure, panels


def shown_name(name: str, longest: int = 20) -> str:
    """A name from a user as a label: of bounded length, and without what no font can draw."""
    text = "".join(character if character.isprintable() else "?" for character in name)
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
