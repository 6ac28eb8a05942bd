"""What a group's records come to, each part made once and only when it is asked for."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from utils.records.collect import Run, collect
from utils.records.selection import select
from utils.report.files import printable
from utils.report.formats import to_markdown
from utils.report.norms import Retuning, build_retuning, retuning_to_markdown
from utils.report.tables import Cells, Table, build_further_tables, build_table

if TYPE_CHECKING:
    from utils.report.plots import Plot


class Report:
    """The report of a group: its records are read once, so that all parts of it tell of the same state.

    Args:
        results_dir, group: where the records are.

    Raises:
        UserError: by every part, if there is no such group.
    """

    def __init__(self, results_dir: Path, group: str) -> None:
        self.group = group
        self.folder = results_dir / group
        self._results_dir = results_dir

    @cached_property
    def runs(self) -> Sequence[Run]:
        """Every run of the group, planned ones too."""
        return collect(self._results_dir, self.group)

    @cached_property
    def cells(self) -> Cells:
        """What was selected from them, by column and norm layer."""
        return select(self.runs)

    @cached_property
    def table(self) -> Table:
        """The main table."""
        return build_table(self.cells, unreadable=[run.reason for run in self.runs if not run.values])

    @cached_property
    def further_tables(self) -> Sequence[Table]:
        """The other leading metrics."""
        return build_further_tables(self.cells)

    @cached_property
    def retuning(self) -> Retuning | None:
        """What re-tuning the norm layers did; None if no run was asked to."""
        return build_retuning(self.cells)

    @cached_property
    def markdown(self) -> str:
        """The main table, and what re-tuning did, for people."""
        return printable(to_markdown(self.table) + retuning_to_markdown(self.cells))

    @cached_property
    def plots(self) -> Mapping[str, "Plot"] | str:
        """The plots by name, or one line that says why there are none."""
        from utils.report.plots import make_plots

        try:
            return make_plots(self.cells)
        except ImportError as error:
            return f"There are no plots: {error}. Install matplotlib and write the report again."
