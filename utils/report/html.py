"""`report.html`: the tables and what is behind them, in one file without scripts; what users named is escaped."""

import base64
import shlex
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from utils.config.options import PLACE_OPTIONS
from utils.config.variants import row_of
from utils.records.collect import Run
from utils.records.state import RunState
from utils.report.captions import caption, gaps, lost, notes, short_caption
from utils.report.formats import setting_text
from utils.report.norms import TITLE, build_retuning
from utils.report.plots import PLOTS
from utils.report.tables import (
    MAIN_METRIC,
    METRICS,
    SCENARIOS,
    Cells,
    Entry,
    Head,
    Style,
    Table,
    column_title,
    head_lines,
    in_order,
    shared_heads,
    tested_on,
)
from utils.report.theme import STYLE

_FIGURE = Style(bold="<b>{}</b>", plus_minus="±", star="<sup>*</sup>", minus="−", dash="–")
_NO_SCRIPTS = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_NOT_SHOWN = {option.name for option in PLACE_OPTIONS} | {"seed", "plugin"}


def to_html(
    group: str, runs: Sequence[Run], cells: Cells, tables: Sequence[Table], plots: Mapping[str, bytes] | str
) -> str:
    """The page.

    Args:
        group: name of the group of runs.
        runs: every record of the group.
        cells: what was selected from them.
        tables: the main table, then further ones.
        plots: PNG files by name, or one line that says why there are none.
    """
    title = f"{escape(group)}: normalization layers in class-incremental learning"
    sections = [
        _head(title, runs),
        _main(tables[0]),
        _further(tables),
        _settings(tables[0]),
        _retuning(cells),
        _plots(plots),
        _commands(runs, cells),
        _options(runs),
        _user_notes(runs),
    ]
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_NO_SCRIPTS}">\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n<main>\n" + "\n".join(filter(None, sections)) + "\n</main>\n"
        "</body>\n</html>\n"
    )


def _head(title: str, runs: Sequence[Run]) -> str:
    states = [run.state for run in runs]
    counts = [f"{states.count(state)} {state}" for state in sorted(set(states))]
    return f"<h1>{title}</h1>\n<p class=quiet>{len(runs)} runs{': ' if counts else ''}{', '.join(counts)}</p>"


def _main(table: Table) -> str:
    lists = {"Notes": notes(table), "Damaged records": lost(table)}
    parts = [f"<h2>{_metric_title(table)}</h2>", _table(table, _numbers(table)), _caption(caption(table))]
    parts += [_reasons(table)]
    parts += [f"<h3>{title}</h3>\n{_list(items)}" for title, items in lists.items() if items]
    return "<section>\n" + "\n".join(filter(None, parts)) + "\n</section>"


def _further(tables: Sequence[Table]) -> str:
    """Tables of the same cells, which share the main table's footnotes and need not repeat its notes."""
    numbers, known, parts = _numbers(tables[0]), set(notes(tables[0])), []
    for table in tables[1:]:
        parts += [f"<h3>{_metric_title(table)}</h3>", _table(table, numbers), _caption(short_caption(table))]
        remarks = [note for note in notes(table) if note not in known]
        parts += [_list(remarks)] if remarks else []
    return "<section>\n<h2>Further metrics</h2>\n" + "\n".join(parts) + "\n</section>" if parts else ""


def _metric_title(table: Table) -> str:
    return escape(METRICS.get(table.metric, table.metric))


def _caption(text: str) -> str:
    return f"<p class=caption>{escape(text.replace('`', ''))}</p>"


def _list(items: Iterable[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(item)}</li>" for item in items) + "</ul>"


def _table(table: Table, numbers: Mapping[str, int]) -> str:
    body = "\n".join(_row(table, row, numbers) for row in table.rows)
    return (
        f"<div class=scroll><table>\n<thead>\n{_table_head(table)}\n</thead>\n<tbody>\n{body}\n</tbody>\n</table></div>"
    )


def _table_head(table: Table) -> str:
    """A row per line of the heads; neighbours that agree in it and in all above share a cell."""
    rows = list(shared_heads(head_lines(table))) or [[]]
    names = "".join(f'<th scope="col" rowspan="{len(rows)}">{name}</th>' for name in ("norm layer", "settings"))
    lines = ["".join(map(_group_head, heads)) for heads in rows[:-1]]
    lines.append("".join(f'<th scope="col">{escape(head.text)}</th>' for head in rows[-1]))
    return "\n".join(f"<tr>{names if not number else ''}{line}</tr>" for number, line in enumerate(lines))


def _group_head(head: Head) -> str:
    return f'<th scope="colgroup" colspan="{head.num_columns}">{escape(head.text)}</th>'


def _row(table: Table, row: str, numbers: Mapping[str, int]) -> str:
    reasons = gaps(table)
    cells = []
    for column in table.columns:
        entry = table.entries[row, column]
        reason = reasons.get((row, column[0]), "")
        mark = f"<sup>{numbers[reason]}</sup>" if reason else ""
        text = entry.text(_FIGURE, table.num_seeds)
        published = entry.published_text(_FIGURE)
        below = f"<small>published {published}</small>" if published else ""
        tooltip = escape(_tooltip(entry, reason))
        cells.append(f'<td title="{tooltip}"{" class=best" if entry.is_best else ""}>{text}{mark}{below}</td>')
    return f'<tr><th scope="row">{escape(row)}</th><td>{table.tried(row)}</td>{"".join(cells)}</tr>'


def _tooltip(entry: Entry, reason: str) -> str:
    """What is behind a figure, a line each."""
    lines = [f"n = {entry.num_seeds}"]
    if entry.cell and entry.cell.setting:
        lines.append(f"{setting_text(entry)}, best of {entry.cell.num_settings} ({entry.cell.selection})")
    if entry.cell and entry.cell.forward:
        lines.append(f"current and memory rows {entry.cell.forward}")
    if entry.p is not None:
        lines.append(f"against BN: p = {entry.p:.3g}, after Holm {entry.p_holm:.3g}")
    if entry.published is not None:
        lines.append(f"published: {entry.published.source}")
    return "\n".join([*lines, *([reason] if reason else [])])


def _numbers(table: Table) -> dict[str, int]:
    """Equal reasons share a footnote."""
    return {reason: number for number, reason in enumerate(dict.fromkeys(gaps(table).values()), start=1)}


def _reasons(table: Table) -> str:
    lines = "".join(f"<li>{escape(reason)}</li>" for reason in _numbers(table))
    return f"<h3>Missing</h3>\n<ol class=reasons>{lines}</ol>" if lines else ""


def _settings(table: Table) -> str:
    """Which setting of a searched layer stands for it, and how it was chosen."""
    any_scenario = next(iter(SCENARIOS))
    columns = [column for column in table.columns if column[1] == any_scenario]
    rows = [
        (
            table.title(column),
            row,
            cell.num_settings,
            setting_text(table.entries[row, column]) or "–",
            cell.selection,
        )
        for column in columns
        for row in table.rows
        if (cell := table.entries[row, column].cell) and cell.num_settings > 1
    ]
    if not rows:
        return ""
    body = "\n".join("<tr>" + "".join(f"<td>{escape(str(value))}</td>" for value in row) + "</tr>" for row in rows)
    titles = ("column", "norm layer", "tried", "chosen", "chosen by")
    head = "".join(f'<th scope="col">{title}</th>' for title in titles)
    return (
        "<section>\n<h2>Hyperparameters</h2>\n<div class=scroll><table class=plain>\n"
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>\n</section>"
    )


def _retuning(cells: Cells) -> str:
    """How re-tuning the norm layers changed the accuracy, where runs were asked to."""
    found = build_retuning(cells)
    if found is None:
        return ""
    head = "".join(f'<th scope="col">{escape(title)}</th>' for title in found.titles)
    body = "\n".join("<tr>" + "".join(f"<td>{escape(text)}</td>" for text in row) + "</tr>" for row in found.rows)
    return (
        f"<section>\n<h2>{escape(TITLE)}</h2>\n<div class=scroll><table class=plain>\n"
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>\n{_caption(found.caption)}\n"
        "</section>"
    )


def _plots(plots: Mapping[str, bytes] | str) -> str:
    if isinstance(plots, str):
        return f"<section>\n<h2>Plots</h2>\n<p>{escape(plots)}</p>\n</section>"
    parts = []
    for name, png in plots.items():
        text = f"{escape(name.rpartition(' ')[0])}. {escape(PLOTS[name.rpartition(' ')[2]])}"
        data = base64.b64encode(png).decode("ascii")
        image = f'<img alt="{escape(name)}" src="data:image/png;base64,{data}">'
        parts.append(f"<figure>{image}<figcaption>{text}</figcaption></figure>")
    return "<section>\n<h2>Plots</h2>\n" + "\n".join(parts) + "\n</section>" if parts else ""


def _commands(runs: Sequence[Run], cells: Cells) -> str:
    """The command line of every record, by row; those that a figure of the table rests on come first."""
    used = {
        run.folder: column for column, norms in cells.items() for cell in norms.values() for run in cell.runs.values()
    }
    by_norm: dict[str, list[Run]] = {}
    for run in runs:
        by_norm.setdefault(row_of(run.values) if run.values else "in no cell", []).append(run)
    known = in_order({norm for norms in cells.values() for norm in norms})
    rows = [*known, *sorted(by_norm.keys() - set(known))]
    parts = [_command_list(row, by_norm.get(row, []), used, cells) for row in rows]
    return "<section>\n<h2>Command lines</h2>\n" + "\n".join(parts) + "\n</section>" if parts else ""


def _command_list(row: str, runs: Sequence[Run], used: Mapping[Any, tuple], cells: Cells) -> str:
    behind = [(column_title(used[run.folder], cells), run) for run in runs if run.folder in used]
    others = [(run.reason or _unused(run), run) for run in runs if run.folder not in used]
    items = [_command(text, run) for text, run in [*behind, *others]]
    summary = f"{escape(row)} <span class=quiet>runs in the table: {len(behind)}, others: {len(others)}</span>"
    return f"<details><summary>{summary}</summary>\n<ol>{''.join(items)}</ol>\n</details>"


def _unused(run: Run) -> str:
    return "search on a held-out part" if run.values.get("validation") else "setting not chosen"


def _command(text: str, run: Run) -> str:
    line = shlex.join(run.command) or "no command line in the record"
    about = " · ".join([text, run.folder.name, *_final(run)])
    return f"<li><span class=quiet>{escape(about)}</span><code>{escape(line)}</code></li>"


def _final(run: Run) -> list[str]:
    """The final Class-IL accuracy, and on which data: that of a search is no result."""
    final = run.metrics["class_il"].get(MAIN_METRIC) if run.metrics else None
    return [] if final is None else [f"final Class-IL {final:.2f} % on {tested_on(run.values.get('validation'))}"]


def _options(runs: Sequence[Run]) -> str:
    """Options that all complete runs share; those that differ are in the tables and the command lines."""
    complete = [run.values for run in runs if run.state is RunState.COMPLETE]
    names = sorted({name for values in complete for name in values} - _NOT_SHOWN)
    shared = [name for name in names if len({str(values.get(name)) for values in complete}) == 1]
    shared = [name for name in shared if complete[0].get(name) not in (None, "", [])]
    if not shared:
        return ""
    items = "".join(f"<dt>{escape(name)}</dt><dd>{escape(str(complete[0][name]))}</dd>" for name in shared)
    summary = "<summary>Options that all complete runs share</summary>"
    return f"<section>\n<details>{summary}\n<dl>{items}</dl>\n</details>\n</section>"


def _user_notes(runs: Sequence[Run]) -> str:
    texts = sorted({str(run.values["notes"]) for run in runs if run.values.get("notes")})
    return f"<section>\n<h2>Notes</h2>\n{_list(texts)}\n</section>" if texts else ""
