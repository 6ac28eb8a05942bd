"""What is said under a table: what the figures are, what to know about them, and why some are missing. Plain text."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from utils.config.variants import VARIANTS
from utils.records.collect import Run
from utils.records.metrics import METRICS
from utils.records.selection import Column, setting_in_words
from utils.report.published import Figure, differences, gain, values_of
from utils.report.tables import (
    BASELINE,
    SCENARIOS,
    SIGNIFICANT,
    Entry,
    ScenarioColumn,
    Table,
    protocol_of,
)

_SELECTION = {
    "oracle": "by final Class-IL accuracy on the data the runs are tested on (oracle{study})",
    "validation": "by final Class-IL accuracy on a held-out part of the training data, then run on all of it",
}


def caption(table: Table) -> str:
    """What the figures are, in one paragraph."""
    return " ".join([shortest_caption(table), *details(table)])


def details(table: Table) -> list[str]:
    """What a caption says beside what the figures are, in sentences."""
    return [*_test(table), *_selections(table), *_compositions(table), *_held_out(table)]


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


def _selections(table: Table) -> list[str]:
    rows: dict[str, list[str]] = defaultdict(list)
    for row in table.rows:
        for kind in sorted({entry.cell.selection for entry in table.row(row) if entry.cell and entry.num_seeds} - {""}):
            rows[kind].append(table.show(row))
    protocols = {entry.cell.protocol for entry in table.entries.values() if entry.cell}
    study = ", as the original study did" if protocols <= {"online", None} else ""
    texts = {kind: _SELECTION.get(kind, kind).format(study=study) for kind in rows}
    sentences = [f"Hyperparameters of {', '.join(names)} selected {texts[kind]}." for kind, names in rows.items()]
    return [*sentences, "The column `settings` counts those tried."] if sentences else []


def _test(table: Table) -> list[str]:
    number = table.num_tests
    tested = [place for place, entry in table.entries.items() if entry.p is not None]
    is_whole = all(row in table.rows and column in table.columns for row, column in tested)
    place = "this table" if is_whole else "all tables of this study"
    over = f"the {number} tests of {place}" if number > 1 else f"the one test of {place}"
    test = f"paired t-test, p < {SIGNIFICANT} after Holm's correction over {over}"
    return [f"* differs from {table.show(BASELINE)} over common seeds: {test}."] if number else []


def _compositions(table: Table) -> list[str]:
    """Which layers saw current and memory rows in one forward, by method."""
    found: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for column in table.columns:
        model = table.show(str(column.column.model))
        for row in table.rows:
            cell = table.entries[row, column].cell
            if cell and cell.forward and table.show(row) not in found[model][cell.forward]:
                found[model][cell.forward].append(table.show(row))
    texts = [
        f"{model}: " + ", ".join(f"{forward} ({', '.join(rows)})" for forward, rows in sorted(forwards.items()))
        for model, forwards in sorted(found.items())
        if forwards
    ]
    return [f"Current and memory rows in one forward (joint) or apart: {'; '.join(texts)}."] if texts else []


def _held_out(table: Table) -> list[str]:
    shares = {column.column.validation for column in table.columns} - {None, 0.0}
    return ["Columns with `validation` are tested on that share of the training data, held out."] if shares else []


def notes(table: Table) -> list[str]:
    """What to know about the rows and about published figures, a line each."""
    entries = [(row, column, table.entries[row, column]) for column in table.columns for row in table.rows]
    compared = [(row, column, entry) for row, column, entry in entries if entry.published and entry.cell]
    remarks = [
        f"published, {table.title(column)}, {table.show(row)}: {text}"
        for row, column, entry in compared
        for text in _remarks(entry)
    ]
    return list(
        dict.fromkeys([*variants(table), *_chosen(table), *sources(table), *remarks, *_gains(table), *_mixed(table)])
    )


def variants(table: Table) -> list[str]:
    """What rows are that are no registered layer."""
    return [f"{table.show(row)} is {VARIANTS[row]}" for row in table.rows if row in VARIANTS]


def sources(table: Table) -> list[str]:
    """Where the published figures are from."""
    published = [table.entries[row, column].published for column in table.columns for row in table.rows]
    texts = [f"{each.source} ({each.setting})" for each in published if each]
    return [f"published: {text}; in brackets how far ours is above" for text in dict.fromkeys(texts)]


def _chosen(table: Table) -> list[str]:
    """The setting that stands in each cell in which several were tried, a line per layer."""
    lines: dict[str, dict[str, None]] = defaultdict(dict)
    for column in table.columns:
        for row in table.rows:
            entry = table.entries[row, column]
            if entry.cell and entry.num_seeds and entry.cell.selection:
                numbers = entry.cell.num_values
                told = {name: f"{value} (of {numbers[name]} tried)" for name, value in entry.cell.setting.items()}
                lines[row][f"{table.title(column)}: {setting_in_words(told)}"] = None
    return [f"settings of {table.show(row)} that were chosen: {'; '.join(found)}" for row, found in lines.items()]


def _remarks(entry: Entry) -> list[str]:
    assert entry.cell is not None  # a published figure stands beside one of ours
    assert entry.published is not None
    values = values_of(next(iter(entry.cell.runs.values())))
    differing = [f"{name} {ours} (published: {theirs})" for name, (ours, theirs) in _sorted(entry.published, values)]
    texts = [f"another setting here, {', '.join(differing)}"] if differing else []
    return [*texts, *([entry.published.remark] if entry.published.remark else [])]


def _sorted(published: Figure, values: dict) -> Iterable[tuple[str, tuple]]:
    return sorted(differences(published, values).items())


def _gains(table: Table) -> list[str]:
    """Of AdaB2N only the largest gains are published, which a column can be held against but no cell."""
    if table.metric != "A_f":
        return []
    texts = []
    for column in table.columns:
        cells = {row: table.entries[row, column].cell for row in table.rows}
        norms = {row: cell for row, cell in cells.items() if cell and cell.runs}
        if {"AdaB2N", BASELINE} <= norms.keys():
            texts.append(gain(str(column.column.dataset), protocol_of(norms)))
    return [f"published, {text}" for text in texts if text]


def _mixed(table: Table) -> list[str]:
    """The cells whose seeds were computed on different devices or thread counts, a line each."""
    lines: dict[str, None] = {}
    for column in table.columns:
        for row in table.rows:
            cell = table.entries[row, column].cell
            seeds: dict[str, list[int]] = defaultdict(list)
            for seed, run in cell.runs.items() if cell else ():
                if run.environment:
                    threads = run.environment.get("threads")
                    seeds[f"{processor_of(run)} with {threads} thread{'s' if threads != 1 else ''}"].append(seed)
            if len(seeds) > 1:
                told = "; ".join(f"{machine}: seed {', '.join(map(str, found))}" for machine, found in seeds.items())
                lines[f"{table.title(column)}, {table.show(row)}: computed on different machines ({told})"] = None
    return [f"{line}, which changes figures by itself" for line in [*lines, *_continued(table)]]


def _continued(table: Table) -> list[str]:
    """The runs that went on with other versions or hardware than they began with, a line each."""
    lines = []
    for column in table.columns:
        for row in table.rows:
            cell = table.entries[row, column].cell
            for seed, run in cell.runs.items() if cell else ():
                told = _changes(run.config.environments if run.config else ())
                if told:
                    lines.append(f"{table.title(column)}, {table.show(row)}: seed {seed} went on elsewhere ({told})")
    return list(dict.fromkeys(lines))


def _changes(environments: Sequence[Mapping[str, Any]]) -> str:
    """What differs between the starts of a run, such as `torch 2.4.0, then 2.5.1`; empty if nothing does."""
    names = dict.fromkeys(name for each in environments for name in each)
    told = {name: list(dict.fromkeys(str(each.get(name)) for each in environments)) for name in names}
    return "; ".join(f"{name} {', then '.join(values)}" for name, values in told.items() if len(values) > 1)


def gaps(table: Table) -> dict[tuple[str, Column], str]:
    """Why a figure is missing or rests on fewer seeds, by row and column without its scenario."""
    found = {}
    for column in table.columns:
        for row in table.rows:
            cell = table.entries[row, column].cell
            if cell is None or cell.reason:
                found[row, column[0]] = cell.reason if cell else "not run"
    return found


def missing(table: Table) -> list[str]:
    """Why figures are missing or rest on fewer seeds, and which records are in no cell, a line each."""
    any_scenario = table.columns[0][1] if table.columns else next(iter(SCENARIOS))
    rows: dict[tuple[Column, str], list[str]] = defaultdict(list)
    for (row, column), why in gaps(table).items():
        rows[column, why].append(table.show(row))
    titles = {column: table.title(ScenarioColumn(column, any_scenario)) for column, _ in rows}
    lines = [f"{titles[column]}, {', '.join(names)}: {why}" for (column, why), names in rows.items()]
    return [*lines, *lost(table)]


def lost(table: Table) -> list[str]:
    """Which records are in no cell, a line each."""
    return [f"in no cell: {why}" for why in table.unreadable]


def setting_text(values: Mapping[str, Any]) -> str:
    """Values of the searched options, such as `kappa=0.4 lambd=0.1`."""
    return " ".join(f"{name}={value}" for name, value in values.items())


def processor_of(run: Run) -> str | None:
    """What a run was computed on, None where its record does not tell."""
    device = run.environment.get("device")
    name = run.environment.get("cpu") if device == "cpu" else device
    return None if name is None else str(name)
