"""The text under a table: what the figures are, notes on them, and why some are missing. Plain text."""

from collections import defaultdict
from collections.abc import Container, Mapping, Sequence
from typing import Any

from utils.config.variants import VARIANTS
from utils.records.collect import Run
from utils.records.metrics import METRICS
from utils.records.selection import Cell, Column, setting_in_words
from utils.report.published import PublishedFigure, differences, gain, values_of
from utils.report.tables import BASELINE, SIGNIFICANT, Table, protocol_of

_SELECTION = {
    "oracle": "by final Class-IL accuracy on the data the runs are tested on (oracle selection{study})",
    "validation": "by final Class-IL accuracy on a held-out part of the training data, then run on all of it",
}


# -- The caption ------------------------------------------------------------------------------------------------------


def caption(table: Table) -> str:
    """What the figures are, in one paragraph."""
    return " ".join([shortest_caption(table), *details(table)])


def short_caption(table: Table) -> str:
    """The caption of a table beside another one of the same cells."""
    return " ".join([shortest_caption(table), *_test(table)])


def shortest_caption(table: Table) -> str:
    """What the figures are, in one sentence."""
    metric = METRICS[table.metric]
    most = table.num_seeds
    fewest = min((entry.num_seeds for entry in table.entries.values() if entry.num_seeds), default=most)
    if not most:
        return f"{metric.title}, in {metric.unit}: no run is complete yet."
    spread = f"mean ± sample standard deviation over {most} seeds" if most > 1 else "one seed"
    fewer = " (n where fewer)" if fewest < most else ""
    return f"{metric.title}, in {metric.unit}: {spread}{fewer}, best in bold."


def details(table: Table) -> list[str]:
    """What a caption says beside what the figures are, in sentences."""
    return [*_test(table), *_selections(table), *_compositions(table), *_held_out(table)]


def _test(table: Table) -> list[str]:
    number = table.num_tests
    tested = [place for place, entry in table.entries.items() if entry.p is not None]
    is_whole = all(row in table.rows and column in table.columns for row, column in tested)
    place = "in this table" if is_whole else "in all tables of this study"
    over = f"the {number} tests {place}" if number > 1 else f"the one test {place}"
    test = f"paired t-test over common seeds, p < {SIGNIFICANT} after Holm correction for {over}"
    return [f"* differs significantly from {table.show(BASELINE)}: {test}."] if number else []


def _selections(table: Table) -> list[str]:
    rows: dict[str, list[str]] = defaultdict(list)
    for row in table.rows:
        for kind in sorted({entry.cell.selection for entry in table.row(row) if entry.cell and entry.num_seeds} - {""}):
            rows[kind].append(table.show(row))
    protocols = {cell.protocol for cell in table.cells.values() if cell}
    study = ", as in the original study" if protocols <= {"online", None} else ""
    texts = {kind: _SELECTION.get(kind, kind).format(study=study) for kind in rows}
    sentences = [f"Hyperparameters of {', '.join(names)} selected {texts[kind]}." for kind, names in rows.items()]
    return [*sentences, "The `settings` column gives the number of settings tried."] if sentences else []


def _compositions(table: Table) -> list[str]:
    """To which layers current and memory samples were one batch, by method."""
    found: dict[str, dict[str, dict[str, None]]] = defaultdict(lambda: defaultdict(dict))
    for (row, column), cell in table.cells.items():
        if cell and cell.forward:
            found[table.show(str(column.model))][cell.forward][table.show(row)] = None
    texts = [
        f"{model}: " + ", ".join(f"{forward} ({', '.join(rows)})" for forward, rows in sorted(forwards.items()))
        for model, forwards in sorted(found.items())
    ]
    how = "Current and memory samples as one batch (joint) or one each (separate)"
    return [f"{how}: {'; '.join(texts)}."] if texts else []


def _held_out(table: Table) -> list[str]:
    shares = {column.column.validation for column in table.columns} - {None, 0.0}
    text = "Columns with `validation` are tested on that share of the training data, which is held out."
    return [text] if shares else []


# -- Notes ------------------------------------------------------------------------------------------------------------


def notes(table: Table) -> list[str]:
    """What to know about the rows and about published figures, a line each."""
    lines = [*variants(table), *chosen(table), *sources(table), *_remarks(table), *_gains(table)]
    lines += [*_unmeasured(table), *_environments(table)]
    return list(dict.fromkeys(lines))


def variants(table: Table) -> list[str]:
    """What rows are that are no registered layer."""
    return [f"{table.show(row)} is {VARIANTS[row]}" for row in table.rows if row in VARIANTS]


def chosen(table: Table) -> list[str]:
    """The setting that stands in each cell in which several were tried, a line per layer."""
    lines: dict[str, list[str]] = defaultdict(list)
    for (row, column), cell in table.cells.items():
        if cell and cell.runs and cell.selection:
            values = {name: f"{value} (of {cell.num_values[name]} tried)" for name, value in cell.setting.items()}
            lines[row].append(f"{table.title_of(column)}: {setting_in_words(values)}")
    return [f"selected settings of {table.show(row)}: {'; '.join(lines[row])}" for row in table.rows if lines[row]]


def sources(table: Table) -> list[str]:
    """The sources of the published figures, a line each."""
    published = [entry.published for _, _, entry in table.entries_in_order if entry.published]
    texts = dict.fromkeys(f"{each.source} ({each.setting})" for each in published)
    return [f"published: {text}; in parentheses, ours − published" for text in texts]


def _unmeasured(table: Table) -> list[str]:
    """Columns with complete runs, none of which measured a metric that has to be asked for, a line each."""
    needs = METRICS[table.metric].needs
    complete: dict[Column, list[bool]] = defaultdict(list)
    for _, (column, _), entry in table.entries_in_order:
        if entry.cell and entry.cell.runs:
            complete[column].append(entry.mean is not None)
    return [
        f"{table.title_of(column)}: the runs did not measure {table.metric}; a run with {needs} does"
        for column, are_measured in complete.items()
        if needs and not any(are_measured)
    ]


def _remarks(table: Table) -> list[str]:
    """What to know about single published figures."""
    return [
        f"published, {table.title(column)}, {table.show(row)}: {text}"
        for row, column, entry in table.entries_in_order
        if entry.cell and entry.published
        for text in _remarks_of(entry.cell, entry.published)
    ]


def _remarks_of(cell: Cell, published: PublishedFigure) -> list[str]:
    found = differences(published, values_of(next(iter(cell.runs.values()))))
    differing = [f"{name} {ours} (published: {theirs})" for name, (ours, theirs) in sorted(found.items())]
    texts = [f"our settings differ: {', '.join(differing)}"] if differing else []
    return [*texts, *([published.remark] if published.remark else [])]


def _gains(table: Table) -> list[str]:
    """The published gains of AdaB2N, a line per column: the largest alone are published, and no figures of cells."""
    columns: dict[Column, dict[str, Cell]] = defaultdict(dict)
    for (row, column), cell in table.cells.items():
        if cell and cell.runs:
            columns[column][row] = cell
    both = {column: norms for column, norms in columns.items() if {"AdaB2N", BASELINE} <= norms.keys()}
    texts = [gain(str(column.dataset), protocol_of(norms)) for column, norms in both.items()]
    return [f"published, {text}" for text in texts if text] if table.metric == "A_f" else []


def _environments(table: Table) -> list[str]:
    """Where the seeds of a cell, or the starts of a run, differ in what they ran on or with, a line each."""
    mixed, resumed = [], []
    for (row, column), cell in table.cells.items():
        place = f"{table.title_of(column)}, {table.show(row)}"
        seeds: dict[str, list[str]] = defaultdict(list)
        told = _differing([_known(run.environment) for run in cell.runs.values()]) if cell else {}
        for seed, run in cell.runs.items() if cell else ():
            if run.environment:
                seeds[_machine_of(run, told)].append(str(seed))
            changes = _changes(run.config.environments if run.config else ())
            resumed += [f"{place}: seed {seed} was resumed in another environment ({changes})"] if changes else []
        if len(seeds) > 1:
            machines = "; ".join(f"{machine}: seed {', '.join(found)}" for machine, found in seeds.items())
            mixed.append(f"{place}: the seeds ran on different hardware, thread counts or kernels ({machines})")
    return [f"{line}, which by itself changes results" for line in [*mixed, *resumed]]


def _known(environment: Mapping[str, Any]) -> dict[str, Any]:
    """Without what a run does not have, such as a compiler of kernels."""
    return {name: value for name, value in environment.items() if value is not None}


def _machine_of(run: Run, told: Container[str]) -> str:
    """What a run ran on and with, its multiprocessors and the compiler of its kernels only if they are to be told."""
    known = {name: value for name, value in run.environment.items() if name in told}
    threads, multiprocessors = run.environment.get("threads"), known.get("multiprocessors")
    machine = f"{processor_of(run)} with {threads} thread{'s' if threads != 1 else ''}"
    if multiprocessors is not None:
        machine += f" and {multiprocessors} multiprocessors"
    if not run.environment.get("fused_norms"):
        return machine
    compiler = known.get("norm_compiler")
    return f"{machine} and fused norm layers" + (f" ({compiler})" if compiler else "")


def _changes(environments: Sequence[Mapping[str, Any]]) -> str:
    """What differs between the starts of a run, such as `torch 2.4.0, then 2.5.1`; empty if nothing does."""
    return "; ".join(f"{name} {', then '.join(found)}" for name, found in _differing(environments).items())


def _differing(environments: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """The values of what differs between them; records of earlier versions do not have everything."""
    names = dict.fromkeys(name for each in environments for name in each)
    values = {name: list(dict.fromkeys(str(each[name]) for each in environments if name in each)) for name in names}
    return {name: found for name, found in values.items() if len(found) > 1}


# -- What is missing --------------------------------------------------------------------------------------------------


def gaps(table: Table) -> dict[tuple[str, Column], str]:
    """Why a figure is missing or rests on fewer seeds, by row and column without its scenario."""
    return {
        place: cell.reason if cell else "not run" for place, cell in table.cells.items() if cell is None or cell.reason
    }


def missing(table: Table) -> list[str]:
    """Why figures are missing or rest on fewer seeds, and which records are not in the table, a line each."""
    rows: dict[tuple[Column, str], list[str]] = defaultdict(list)
    for (row, column), why in gaps(table).items():
        rows[column, why].append(table.show(row))
    lines = [f"{table.title_of(column)}, {', '.join(names)}: {why}" for (column, why), names in rows.items()]
    return [*lines, *lost(table)]


def lost(table: Table) -> list[str]:
    """Which records are not in the table, a line each."""
    return [f"not in the table: {why}" for why in table.unreadable]


# -- In words ---------------------------------------------------------------------------------------------------------


def setting_text(values: Mapping[str, Any]) -> str:
    """Values of the searched options, such as `kappa=0.4 lambd=0.1`."""
    return " ".join(f"{name}={value}" for name, value in values.items())


def processor_of(run: Run) -> str | None:
    """What a run was computed on, None where its record does not say."""
    device = run.environment.get("device")
    name = run.environment.get("cpu") if device == "cpu" else device
    return None if name is None else str(name)
