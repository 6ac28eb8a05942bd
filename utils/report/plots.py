"""Plots of a report as files in memory; matplotlib is imported where it draws."""

import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from utils.config.protocols import PROTOCOLS
from utils.records.metrics import MAIN_METRIC, METRICS, accuracies
from utils.records.points import Points
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
    "FRN": ("#332288", "p"),
    "DyT": ("#44aa99", "*"),
    "TBBN": ("#0072b2", "D"),
    "AdaB2N": ("#d55e00", "s"),
}
_FURTHER_STYLES = (("#999933", "d"), ("#aa4499", "H"), ("#88ccee", "8"))

PLOTS = {
    "accuracy": "Average accuracy over the tasks seen, after each task, or where tasks share classes accuracy on the "
    "classes seen; the band is ± one sample standard deviation.",
    "steps": "Accuracy on the classes seen, inside the tasks too, over steps, on all test images or those that "
    "--eval_images draws; the band is ± one sample standard deviation, dotted lines are the ends of tasks where all "
    "seeds have them at the same steps.",
    "forgetting": "Forgetting against final accuracy, lower right is better; bars are ± one sample standard deviation.",
    "matrix": "Accuracy on each task (columns) after each task (rows), mean over seeds.",
    "distances": "Distance between the running statistics and those of the training data of all tasks seen, in each "
    "norm layer (rows, from the input on) after each task (columns), mean over seeds: root mean square over channels, "
    "of the difference of the means in standard deviations of the data, and of the logarithm of the ratio of the "
    "standard deviations.",
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


class Layer(NamedTuple):
    """A norm layer of a column as it is drawn."""

    name: str
    cell: Cell
    colour: str
    marker: str


def make_plots(cells: Cells, names: Mapping[str, str] = PUBLISHED_NAMES) -> dict[str, Plot]:
    """A plot per column and kind, by `<column's title> <kind>`, kinds as in `PLOTS`; none without figures.

    Args:
        cells: by column and norm layer.
        names: that are drawn in place of those of datasets, methods and norm layers.
    """
    drawings = {"accuracy": draw_accuracy, "steps": draw_steps, "forgetting": draw_forgetting, "matrix": draw_matrices}
    styles = _styles({norm for norms in cells.values() for norm in norms})
    found = {}
    for column in sorted(cells, key=column_order):
        norms = {norm: cells[column][norm] for norm in styles if norm in cells[column] and cells[column][norm].runs}
        layers = [Layer(shown(names, norm), cell, *styles[norm]) for norm, cell in norms.items()]
        title, drawn = column_title(column, cells), column_title(column, cells, names)
        for kind, draw in drawings.items():
            figure = draw(layers)
            if figure is not None:
                found[f"{title} {kind}"] = _save(figure, drawn, narrow=draw(layers, is_narrow=True))
        figure = draw_distances(layers)
        if figure is not None:
            found[f"{title} distances"] = _save(figure, drawn)
    return found


def _styles(norms: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker of each norm layer, the same in every plot, in the order of the table's rows."""
    ordered = in_order(norms)
    others = [name for name in ordered if name not in _STYLES]
    further = {name: _FURTHER_STYLES[index % len(_FURTHER_STYLES)] for index, name in enumerate(others)}
    return {name: _STYLES.get(name) or further[name] for name in ordered}


def _save(figure: "Figure", title: str, narrow: "Figure | None" = None) -> Plot:
    from matplotlib import rc_context

    def save(which: "Figure", form: str, longest: int, **metadata: None) -> bytes:
        # Names from users are text here: a dollar sign is no formula.
        top = 1 - 0.12 / which.get_figheight()
        which.suptitle(_label(title, longest), y=top, fontsize=10, parse_math=False)
        out = io.BytesIO()
        which.savefig(out, format=form, metadata=metadata)
        return _with_palette(out) if form == "png" else out.getvalue()

    # Without versions, dates and random names in them, the same figures give the same bytes.
    with rc_context({"svg.hashsalt": "plots"}):
        return Plot(
            title=title,
            png=save(figure, "png", 120, Software=None),
            narrow=None if narrow is None else save(narrow, "png", 48, Software=None),
            pdf=save(figure, "pdf", 120, CreationDate=None, Creator=None, Producer=None),
            svg=save(figure, "svg", 120, Date=None, Creator=None),
        )


def _with_palette(file: io.BytesIO) -> bytes:
    """A PNG in at most 256 colours, which takes a third of the space: a page has up to a hundred plots."""
    from PIL import Image

    image, out = Image.open(file).convert("RGB"), io.BytesIO()
    image.quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(out, "PNG")
    return out.getvalue()


# -- A panel per scenario: accuracy over tasks and over steps, and forgetting against accuracy ------------------------


class _Curve(NamedTuple):
    """Mean and sample standard deviation over seeds at the P places of an axis, [P] each; the latter 0 for one seed.

    `ends` are the places where tasks end, where that is to be drawn.
    """

    places: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    ends: tuple[int, ...] = ()

    @classmethod
    def of(cls, places: np.ndarray, values: np.ndarray, ends: tuple[int, ...] = ()) -> "_Curve":
        """The curve of the values of S seeds, [S, P]."""
        std = values.std(axis=0, ddof=1) if len(values) > 1 else np.zeros(len(places))
        return cls(places, values.mean(axis=0), std, ends)


def draw_accuracy(layers: Sequence[Layer], is_narrow: bool = False) -> "Figure | None":
    """Average accuracy after each task; None if nothing was measured."""

    def draw(axes: "Axes", layer: Layer, curve: _Curve) -> None:
        _draw_curve(axes, layer, curve, linewidth=1.4)

    figure = _draw_pair(layers, is_narrow, _task_curve, draw, ("tasks seen", "average accuracy (%)"))
    for axes in figure.axes if figure else ():
        _number_wholly(axes.xaxis)
        _limit_to_percent(axes)
    return figure


def _task_curve(cell: Cell, scenario: str) -> _Curve | None:
    """The average accuracy after each task; None if nothing was measured."""
    lists = [run.metrics[scenario].get("A") or [] for run in cell.runs.values()]
    values = np.array([each for each in lists if len(each) == len(lists[0])], dtype=float)
    if not values.size or not np.isfinite(values).any():
        return None
    return _Curve.of(np.arange(1, values.shape[1] + 1), values)


def draw_steps(layers: Sequence[Layer], is_narrow: bool = False) -> "Figure | None":
    """Accuracy on the classes seen at every evaluation point inside the stream; None if there are none."""
    ends: set[int] = set()

    def draw(axes: "Axes", layer: Layer, curve: _Curve) -> None:
        _draw_curve(axes, layer, curve, linewidth=1.2, markevery=max(1, len(curve.places) // 8))
        ends.update(curve.ends)

    figure = _draw_pair(layers, is_narrow, _step_curve, draw, ("training step", "accuracy (%)"))
    for axes in figure.axes if figure else ():
        _limit_to_percent(axes)
        for end in sorted(ends):
            axes.axvline(end, color="#808080", linestyle=":", linewidth=0.8, zorder=0)
    return figure


def _step_curve(cell: Cell, scenario: str) -> _Curve | None:
    """The accuracy at the steps that all seeds were evaluated after; None if nothing was measured inside the stream.

    The ends of tasks are those that all seeds have in common.
    """
    measured = [run.known_result.points for run in cell.runs.values()]
    found = [Points.of(points, scenario) for points in measured if points]
    if not found:
        return None
    steps = reduce(np.intersect1d, [points.steps for points in found])
    values = np.array([points.seen[np.isin(points.steps, steps)] for points in found])
    ends = set.intersection(*(set(points.task_ends.tolist()) for points in found))
    return _Curve.of(steps, values, tuple(ends))


def _draw_curve(axes: "Axes", layer: Layer, curve: _Curve, **style: Any) -> None:
    """The mean as a line, and a band of one standard deviation around it."""
    low, high = curve.mean - curve.std, curve.mean + curve.std
    label = _label(layer.name)
    axes.plot(curve.places, curve.mean, color=layer.colour, marker=layer.marker, markersize=4, label=label, **style)
    axes.fill_between(curve.places, low, high, color=layer.colour, alpha=0.15, linewidth=0)


def _limit_to_percent(axes: "Axes") -> None:
    """Cut the vertical axis a little outside of 0 and 100, whatever the band covers."""
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, -3), min(high, 103))


def draw_forgetting(layers: Sequence[Layer], is_narrow: bool = False) -> "Figure | None":
    """Forgetting against final accuracy; None if nothing was measured."""
    leading = PROTOCOLS[protocol_of({layer.name: layer.cell for layer in layers})].leading_metrics
    metric = next((name for name in leading if METRICS[name].lower_is_better), "forgetting")

    def measure(cell: Cell, scenario: str) -> list | None:
        """Mean and spread of final accuracy and of forgetting."""
        found = [mean_and_std(list(cell.values(scenario, name).values())) for name in (MAIN_METRIC, metric)]
        return None if any(mean is None for mean, _ in found) else found

    def draw(axes: "Axes", layer: Layer, point: list) -> None:
        (x, x_std), (y, y_std) = point
        axes.errorbar(x, y, xerr=x_std, yerr=y_std, fmt="none", ecolor=layer.colour, elinewidth=1)
        axes.plot(x, y, color=layer.colour, marker=layer.marker, markersize=7, lw=0, label=_label(layer.name))

    labels = f"final average accuracy {MAIN_METRIC} (%)", f"{metric} (percentage points)"
    figure = _draw_pair(layers, is_narrow, measure, draw, labels)
    for axes in figure.axes if figure else ():
        axes.margins(0.15)
    return figure


def _draw_pair(
    layers: Sequence[Layer],
    is_narrow: bool,
    measure: Callable[[Cell, str], Any],
    draw: Callable[["Axes", Layer, Any], None],
    labels: tuple[str, str],
) -> "Figure | None":
    """A panel per scenario in which each layer draws what was measured of it; None if nothing was."""
    measured = [
        (scenario, layer, found)
        for scenario in SCENARIOS
        for layer in layers
        if (found := measure(layer.cell, scenario)) is not None
    ]
    if not measured:
        return None
    figure, panels = _new_pair([layer.name for layer in layers], is_narrow)
    for scenario, layer, found in measured:
        draw(panels[scenario], layer, found)
    for scenario, axes in panels.items():
        axes.set_title(SCENARIOS[scenario], fontsize=10)
        axes.set_xlabel(labels[0], fontsize=9)
        axes.set_ylabel(labels[1], fontsize=9)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    _legend(figure, panels.values(), is_narrow)
    return figure


def _new_pair(norms: Iterable[str], is_narrow: bool) -> tuple["Figure", dict[str, "Axes"]]:
    """A figure with a panel per scenario and room for the names of the layers: on the right, or below if narrow."""
    names = [_label(norm) for norm in norms]
    longest = max(map(len, names))
    if is_narrow:
        legend = 0.35 + 0.19 * math.ceil(len(names) / _names_beside(names))
        figure, panels = _new_panels(4.2, 6.0 + legend, right=0.15, num_rows=2, num_columns=1, below=legend)
        figure.subplots_adjust(hspace=0.4)
    else:
        figure, panels = _new_panels(7.8 + 0.07 * longest, 3.5, right=0.6 + 0.07 * longest)
        figure.subplots_adjust(wspace=0.25)
    return figure, dict(zip(SCENARIOS, panels, strict=True))


def _names_beside(names: Iterable[str]) -> int:
    """Names of layers that stand beside each other below a narrow figure."""
    return max(1, 44 // (6 + max(map(len, names))))


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


def draw_matrices(layers: Sequence[Layer], is_narrow: bool = False) -> "Figure | None":
    """A heat map per scenario and norm layer, the scenarios below each other; None if nothing was measured."""
    matrices = {layer.name: _mean_matrices(layer.cell) for layer in layers}
    most, rows = 2 if is_narrow else _MOST_BESIDE, []
    for scenario in SCENARIOS:
        measured = [(norm, found[scenario]) for norm, found in matrices.items() if scenario in found]
        rows += [(scenario, dict(measured[first : first + most])) for first in range(0, len(measured), most)]
    if not rows:
        return None
    num_columns = max(len(row) for _, row in rows)
    width, height = 1.65 + 1.75 * num_columns, 1.05 + 1.75 * len(rows)
    figure, panels = _new_panels(width, height, 1.0, len(rows), num_columns)
    figure.subplots_adjust(wspace=0.2, hspace=0.35)
    for (scenario, row), axes in zip(rows, panels.reshape(len(rows), num_columns), strict=True):
        image = _draw_matrix_row(SCENARIOS[scenario], row, axes)
    bar = figure.add_axes((1 - 0.8 / width, 0.55 / height, 0.14 / width, 1 - 1.15 / height))
    figure.colorbar(image, cax=bar).set_label("accuracy (%)", fontsize=8)
    bar.tick_params(labelsize=7)
    figure.supxlabel("evaluated on task", fontsize=9, y=0.1 / height)
    return figure


def _draw_matrix_row(title: str, matrices: Mapping[str, np.ndarray], panels: Sequence["Axes"]) -> Any:
    for axes, (norm, matrix) in zip(panels, matrices.items(), strict=False):
        image = _draw_matrix(axes, norm, matrix)
    panels[0].set_ylabel(f"{title}\nafter task", fontsize=9)
    for axes in panels[len(matrices) :]:
        axes.set_axis_off()
    return image


def _draw_matrix(axes: "Axes", norm: str, matrix: np.ndarray) -> Any:
    """With the numbers in it, where there is room."""
    image, num_tasks = _draw_heat_map(axes, norm, matrix, vmin=0, vmax=100), len(matrix)
    if num_tasks > _MOST_NUMBERED_TASKS:
        return image
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks(range(1, num_tasks + 1))
    for (row, column), value in np.ndenumerate(matrix):
        if not math.isnan(value):
            colour = "black" if value > 60 else "white"
            size = 7.5 if num_tasks <= 6 else 5.5
            axes.text(column + 1, row + 1, f"{value:.0f}", ha="center", va="center", fontsize=size, color=colour)
    return image


def _mean_matrices(cell: Cell) -> dict[str, np.ndarray]:
    """The accuracy matrix [T, T] of each scenario that was measured, NaN for tasks not seen yet; mean over seeds.

    Of a task that was not seen yet, forward transfer is measured, which is left out; where tasks share classes, there
    is none, and what is measured was seen.
    """
    results = [run.known_result for run in cell.runs.values() if run.known_result.counts]
    found = []
    for result in results:
        counts, has_transfer = result.counts, result.untrained is not None
        matrices = np.stack([accuracies(counts[name], counts["total"]) for name in SCENARIOS])
        found.append(np.where(np.tri(matrices.shape[1], dtype=bool) | (not has_transfer), matrices, np.nan))
    found = [matrices for matrices in found if matrices.shape == found[0].shape]
    if not found:
        return {}
    means = np.mean(found, axis=0)
    return {name: mean for name, mean in zip(SCENARIOS, means, strict=True) if np.isfinite(mean).any()}


# -- Distance of the running statistics -------------------------------------------------------------------------------


def draw_distances(layers: Sequence[Layer]) -> "Figure | None":
    """A heat map per norm layer and kind of statistics, those of a kind on one scale; None if nothing was measured."""
    tables = {
        (kind, layer.name): table
        for kind in DISTANCES
        for layer in layers
        if (table := mean_distances(layer.cell, kind)) is not None
    }
    shown = list(dict.fromkeys(norm for _, norm in tables))
    if not shown:
        return None
    figure = _new_figure(1.6 + 1.5 * len(shown), 5.4)
    panels = figure.subplots(len(DISTANCES), len(shown), squeeze=False)
    for kind, row in zip(DISTANCES, panels, strict=True):
        scale = _colour_scale([table for (each, _), table in tables.items() if each == kind])
        for axes, norm in zip(row, shown, strict=True):
            table = tables.get((kind, norm), np.full((1, 1), np.nan))
            image = _draw_heat_map(axes, norm, table, norm=scale, aspect="auto", interpolation="nearest")
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


# -- What all of them are drawn on ------------------------------------------------------------------------------------


def _draw_heat_map(axes: "Axes", title: str, table: np.ndarray, **style: Any) -> Any:
    """Rows from the top and columns from the left, counted from 1."""
    num_rows, num_columns = table.shape
    image = axes.imshow(table, cmap="viridis", extent=(0.5, num_columns + 0.5, num_rows + 0.5, 0.5), **style)
    axes.set_title(_label(title, _LONGEST_NAME), fontsize=9, parse_math=False)
    axes.tick_params(labelsize=7, length=2)
    for axis in (axes.xaxis, axes.yaxis):
        _number_wholly(axis)
    return image


def _number_wholly(axis: Any) -> None:
    """Put the ticks of an axis at integers only."""
    axis.get_major_locator().set_params(integer=True)


def _new_figure(width: float, height: float, layout: Literal["constrained"] | None = "constrained") -> "Figure":
    """An empty figure of that size in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=_DPI, layout=layout)
    FigureCanvasAgg(figure)
    return figure


def _new_panels(
    width: float, height: float, right: float, num_rows: int = 1, num_columns: int = 2, below: float = 0.0
) -> tuple:
    """A figure of that size in inches, and its panels; `right` and `below` are room for what stands beside them.

    The margins are fixed, since having them fitted takes several times as long as drawing.
    """
    figure = _new_figure(width, height, layout=None)
    panels = figure.subplots(num_rows, num_columns, squeeze=False).ravel()
    figure.subplots_adjust(
        left=0.65 / width, right=1 - right / width, bottom=(0.55 + below) / height, top=1 - 0.6 / height
    )
    return figure, panels


def _label(name: str, longest: int = 20) -> str:
    """A name from a user as a label: of bounded length, and without what no font can draw."""
    text = "".join(character if character.isprintable() else "?" for character in name)
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
