"""The report of a group, each part of it made once and only when it is needed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from utils.config.registry import DATASETS, METHODS, NORMS, check_known, known_names
from utils.config.variants import VARIANTS
from utils.errors import UserError
from utils.records.collect import Run, collect, of_no_cell
from utils.records.ledger import Axes, Ledger
from utils.records.metrics import MAIN_METRIC, METRICS
from utils.records.selection import select
from utils.report.costs import build_costs
from utils.report.frames import make_frame
from utils.report.markdown import to_markdown
from utils.report.names import printable, read_names
from utils.report.norms import build_retuning
from utils.report.tables import SCENARIOS, Cells, Table, TextTable, build_further_tables, build_table, scenarios_of

if TYPE_CHECKING:
    from pandas import DataFrame

    from utils.report.plots import Plot


@dataclass(frozen=True)
class ReportOptions:
    """What of a group is shown.

    Attributes:
        metric: of the main table, its name in the records.
        scenarios: `class_il`, `task_il` or both.
        datasets, models, methods: that are shown; all of them where none is named. `methods` are norm layers, as in
            the launcher.
        names: a file of names that readers see (`utils/report/names.py`).
        with_costs: whether the cost of training stands below the main table; the page always has it.
    """

    metric: str = MAIN_METRIC
    scenarios: tuple[str, ...] = tuple(SCENARIOS)
    datasets: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    names: Path | None = None
    with_costs: bool = False

    def narrow(self, runs: Sequence[Run], cells: Cells) -> Cells:
        """The cells that are shown. Raises UserError if what is asked for is not among them."""
        if not scenarios_of(self.metric, self.scenarios):
            taken = ", ".join(METRICS[self.metric].scenarios)
            raise UserError(
                f"--metric {self.metric} is taken in {taken} alone: give --scenario {taken}, or leave it out"
            )
        if self.metric != MAIN_METRIC:
            check_metric(runs, self.metric)
        datasets = known_names("--datasets", self.datasets, (str(column.dataset) for column in cells))
        models = known_names("--models", self.models, (str(column.model) for column in cells))
        methods = known_names("--methods", self.methods, (norm for norms in cells.values() for norm in norms))
        narrowed = {
            column: {norm: cell for norm, cell in norms.items() if norm in methods or not methods}
            for column, norms in cells.items()
            if (column.dataset in datasets or not datasets) and (column.model in models or not models)
        }
        return {column: norms for column, norms in narrowed.items() if norms}

    def read_names(self, cells: Cells) -> Mapping[str, str]:
        """What readers see in place of the names of these cells. Raises UserError if the file is not as it must be."""
        if self.names is None:
            return {}
        of_cells = [str(name) for column in cells for name in (column.dataset, column.model)]
        norms = [norm for found in cells.values() for norm in found]
        registered = [name for registry in (DATASETS, METHODS, NORMS) for name in registry.names()]
        return read_names(self.names, [*of_cells, *norms, *registered, *VARIANTS, *SCENARIOS])


def check_metric(runs: Sequence[Run], metric: str) -> None:
    """Raises UserError if a metric is unknown, or measured in no run."""
    found = [
        (name, value)
        for run in runs
        for metrics in run.metrics.values()
        for name, value in metrics.items()
        if not isinstance(value, list)
    ]
    check_known("--metric", [metric], (name for name, _ in found))
    if not any(name == metric and value is not None for name, value in found):
        hint = f"; a run with {METRICS[metric].needs} measures it" if METRICS[metric].needs else ""
        raise UserError(f"--metric {metric} was measured in no run{hint}")


class Report:
    """The report of a group: its records are read once, so that all its parts show the same state.

    Args:
        results_dir, group: where the records are.
        options: what of them is shown.

    Raises:
        UserError: by every part, if there is no such group.
    """

    def __init__(self, results_dir: Path, group: str, options: ReportOptions | None = None) -> None:
        self._options = options or ReportOptions()
        self.group = group
        self.folder = results_dir / group
        self._results_dir = results_dir

    @cached_property
    def runs(self) -> Sequence[Run]:
        """Every run of the group, planned ones too."""
        return collect(self._results_dir, self.group)

    @cached_property
    def axes(self) -> Axes:
        """What the group's latest plan searches and compares."""
        return Ledger(self.folder).read_axes()

    @cached_property
    def cells(self) -> Cells:
        """What was selected from them, by column and norm layer."""
        return self._options.narrow(self.runs, select(self.runs, self.axes))

    @cached_property
    def table(self) -> Table:
        """The main table."""
        return self._named(
            build_table(self.cells, self._options.metric, of_no_cell(self.runs), self._options.scenarios)
        )

    @cached_property
    def further_tables(self) -> Sequence[Table]:
        """The other leading metrics."""
        tables = build_further_tables(self.cells, self._options.metric, self._options.scenarios)
        return [self._named(table) for table in tables]

    def _named(self, table: Table) -> Table:
        return replace(table, names=self._names)

    @cached_property
    def _names(self) -> Mapping[str, str]:
        return self._options.read_names(self.cells)

    @property
    def published_names(self) -> Mapping[str, str]:
        """What readers see in place of names in the page and the plots."""
        return self.table.published_names

    @cached_property
    def frame(self) -> "DataFrame":
        """The runs behind the tables, a row each."""
        return make_frame(self.cells)

    @cached_property
    def others(self) -> Sequence[TextTable]:
        """What stands below the main table."""
        return self._others(self._names, self._options.with_costs)

    @cached_property
    def others_of_page(self) -> Sequence[TextTable]:
        """What stands below the main table on the page: always what training cost, too."""
        return self._others(self.published_names, with_costs=True)

    def _others(self, names: Mapping[str, str], with_costs: bool) -> Sequence[TextTable]:
        retuning = build_retuning(self.cells, names)
        costs = build_costs(self.cells, self._options.metric, self._options.scenarios, names) if with_costs else None
        return [each for each in (retuning, costs) if each is not None]

    @cached_property
    def markdown(self) -> str:
        """The main table, and what stands below it, for people."""
        return printable(to_markdown(self.table, self.others))

    @cached_property
    def plots(self) -> Mapping[str, "Plot"] | str:
        """The plots by name, or one line that says why there are none."""
        from utils.report.plots import make_plots

        try:
            return make_plots(self.cells, self.published_names)
        except ImportError as error:
            return f"There are no plots: {error}. Install matplotlib and write the report again."
