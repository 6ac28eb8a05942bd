"""A table for people (Markdown) and for programs (CSV); the same table gives the same bytes."""

import csv
import io
from collections.abc import Sequence

from utils.records.selection import COLUMN
from utils.report import markdown
from utils.report.captions import caption, gaps, missing, notes
from utils.report.tables import Column, Entry, Style, Table, tested_on

_MARKDOWN = Style(bold="**{}**", plus_minus="±", star=r" \*", minus="−", dash="–")
_CSV_FIGURES = ("metric", "mean", "std", "n", "p", "p_holm", "settings", "setting", "selection", "forward")
_CSV_PUBLISHED = ("published", "deviation", "published_source")


def to_markdown(table: Table) -> str:
    """For people. Published figures are a row of their own, under ours."""
    titles = ["norm", "settings", *(_full_title(table, column) for column in table.columns)]
    lines = markdown.head(titles)
    for row in table.rows:
        title = table.show(row)
        figures = [entry.text(_MARKDOWN, table.num_seeds) for entry in table.row(row)]
        lines.append(markdown.row([title, str(table.tried(row))], figures))
        published = [entry.published_text(_MARKDOWN) for entry in table.row(row)]
        lines += [markdown.row([f"{title}, published", ""], published)] if any(published) else []
    texts = [markdown.escape(caption(table), with_code=True)]
    for title, items in {"Notes": notes(table), "Missing": missing(table)}.items():
        texts += [f"{title}:", markdown.bullets(items)] if items else []
    return "\n".join(lines) + "\n\n" + "\n\n".join(texts) + "\n"


def _full_title(table: Table, column: Column) -> str:
    return f"{table.title(column)} {table.scenario(column)}"


def to_csv(tables: Sequence[Table]) -> str:
    """For programs: a line per figure; p_holm is adjusted within each table."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["norm", *COLUMN, "tested_on", "scenario", *_CSV_FIGURES, *_CSV_PUBLISHED, "reason"])
    for table in tables:
        reasons = gaps(table)
        for column in table.columns:
            for row in table.rows:
                entry = table.entries[row, column]
                named = ["" if value is None else value for value in column[0]]
                tested = tested_on(column[0][COLUMN.index("validation")])
                figures = [table.metric, *_csv_figures(entry), *_csv_published(entry)]
                writer.writerow([row, *named, tested, column[1], *figures, reasons.get((row, column[0]), "")])
    return out.getvalue()


def _csv_figures(entry: Entry) -> list:
    numbers = [_number(entry.mean), _number(entry.std), entry.num_seeds, _number(entry.p), _number(entry.p_holm)]
    if entry.cell is None:
        return [*numbers, 0, "", "", ""]
    return [
        *numbers,
        entry.cell.num_settings,
        setting_text(entry),
        entry.cell.selection,
        entry.cell.forward or "",
    ]


def _csv_published(entry: Entry) -> list:
    if entry.published is None:
        return ["", "", ""]
    return [_number(entry.published.value), _number(entry.deviation), entry.published.source]


def setting_text(entry: Entry) -> str:
    """The searched options of the chosen setting, such as `kappa=0.4 lambd=0.1`."""
    return " ".join(f"{name}={value}" for name, value in entry.cell.setting.items()) if entry.cell else ""


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
