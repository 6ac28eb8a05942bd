"""Plots of a report as PNG files in memory; matplotlib is imported where it draws, its global state untouched."""

import io
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from utils.config.protocols import PROTOCOLS
from utils.records.selection import Cell
from utils.report.canvas import new_figure, new_panels, shown_name
from utils.report.matrix_plots import CAPTION as MATRICES_CAPTION
from utils.report.matrix_plots import draw_matrices
from utils.report.norm_plots import CAPTION as DISTANCES_CAPTION
from utils.report.norm_plots import draw_distances
from utils.report.stats import mean_and_std
from utils.report.tables import (
    LOWER_IS_BETTER,
    MAIN_METRIC,
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
    "matrix": MATRICES_CAPTION,
    "distances": DISTANCES_CAPTION,
}


def make_plots(cells: Cells) -> dict[str, bytes]:
    """A PNG per column and kind of plot, by `<column's title> <kind>`, kinds as in `PLOTS`; none without figures."""
    styles = _styles({norm for norms in cells.values() for norm in norms})
    found = {}
    for column in sorted(cells, key=column_order):
        norms = {norm: cells[column][norm] for norm in styles if norm in cells[column] and cells[column][norm].runs}
        title = column_title(column, cells)
        figures = {
            "accuracy": _draw_accuracy(norms, styles),
            "forgetting": _draw_forgetting(norms, styles),
            "matrix": draw_matrices(norms),
            "distances": draw_distances(norms, new_figure),
        }
        found |= {f"{title} {kind}": _png(figure, title) for kind, figure in figures.items() if figure is not None}
    return found


def _styles(norms: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker of each norm layer, the same in every plot, in the order of the table's rows."""
    ordered = in_order(norms)
    others = [name for name in ordered if name not in _STYLES]
    further = {name: _FURTHER_STYLES[index % len(_FURTHER_STYLES)] for index, name in enumerate(others)}
    return {name: _STYLES.get(name) or further[name] for name in ordered}


def _new_pair(norms: Iterable[str]) -> tuple:
    """A figure with a panel per scenario and room for the names of the layers on the right."""
    longest = max(len(shown_name(norm)) for norm in norms)
    figure, panels = new_panels(7.8 + 0.07 * longest, 3.5, right=0.6 + 0.07 * longest)
    figure.subplots_adjust(wspace=0.25)
    return figure, dict(zip(SCENARIOS, panels, strict=True))


def _png(figure: "Figure", title: str) -> bytes:
    # Names from users are text here: a dollar sign is no formula.
    figure.suptitle(shown_name(title, 120), fontsize=10, parse_math=False)
    out = io.BytesIO()
    # Without matplotlib's version in it, the same figures give the same bytes.
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def _draw_accuracy(norms: Mapping[str, Cell], styles: Mapping[str, tuple[str, str]]) -> "Figure | None":
    curves = {
        (scenario, norm): curve
        for scenario in SCENARIOS
        for norm, cell in norms.items()
        if (curve := _curve(cell, scenario)) is not None
    }
    if not curves:
        return None
    figure, panels = _new_pair(norms)
    for (scenario, norm), (mean, std) in curves.items():
        colour, marker = styles[norm]
        tasks = np.arange(1, len(mean) + 1)
        panels[scenario].plot(
            tasks, mean, color=colour, marker=marker, markersize=4, linewidth=1.4, label=shown_name(norm)
        )
        panels[scenario].fill_between(tasks, mean - std, mean + std, color=colour, alpha=0.15, linewidth=0)
    for scenario, axes in panels.items():
        _label(axes, SCENARIOS[scenario], "tasks seen", "average accuracy (%)")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_ylim(max(axes.get_ylim()[0], -3), min(axes.get_ylim()[1], 103))
    _legend(figure, panels.values())
    return figure


def _curve(cell: Cell, scenario: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Mean and sample standard deviation over seeds [T], the latter 0 for one seed; None if nothing was measured."""
    lists = [run.metrics[scenario].get("A") or [] for run in cell.runs.values()]
    lists = [values for values in lists if len(values) == len(lists[0])]
    values = np.array(lists, dtype=float)
    if not values.size or not np.isfinite(values).any():
        return None
    return values.mean(axis=0), values.std(axis=0, ddof=1) if len(values) > 1 else np.zeros(values.shape[1])


def _draw_forgetting(norms: Mapping[str, Cell], styles: Mapping[str, tuple[str, str]]) -> "Figure | None":
    leading = PROTOCOLS[protocol_of(norms)].leading_metrics
    metric = next((name for name in leading if name in LOWER_IS_BETTER), "forgetting")
    points = {
        (scenario, norm): point
        for scenario in SCENARIOS
        for norm, cell in norms.items()
        if (point := _point(cell, scenario, metric)) is not None
    }
    if not points:
        return None
    figure, panels = _new_pair(norms)
    for (scenario, norm), (across, up) in points.items():
        colour, marker = styles[norm]
        panels[scenario].errorbar(across[0], up[0], xerr=across[1], yerr=up[1], fmt="none", ecolor=colour, elinewidth=1)
        panels[scenario].plot(across[0], up[0], color=colour, marker=marker, markersize=7, lw=0, label=shown_name(norm))
    for scenario, axes in panels.items():
        _label(axes, SCENARIOS[scenario], f"final average accuracy {MAIN_METRIC} (%)", f"{metric} (percentage points)")
        axes.margins(0.15)
    _legend(figure, panels.values())
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


def _legend(figure: "Figure", panels: Iterable["Axes"]) -> None:
    """One legend for all panels, on the right."""
    entries: dict[str, Any] = {}
    for axes in panels:
        handles, labels = axes.get_legend_handles_labels()
        entries = {**dict(zip(labels, handles, strict=True)), **entries}
    legend = figure.legend(entries.values(), entries.keys(), loc="center right", fontsize=8, frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)
