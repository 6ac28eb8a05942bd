"""A table for people (Markdown), for a paper (LaTeX) and for programs (CSV); the same table gives the same bytes."""

import csv
import io
import re
from collections.abc import Sequence

from utils.report.captions import caption, gaps, missing, notes
from utils.report.select import COLUMN
from utils.report.tables import SCENARIOS, Column, Entry, Style, Table

_MARKDOWN = Style(bold="**{}**", plus_minus="±", star=r" \*", minus="−", dash="–")
_LATEX = Style(bold=r"\textbf{{{}}}", plus_minus=r"$\pm$", star="$^*$", minus="$-$", dash="--")
_LATEX_CHARACTERS = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "–": "--",
    "−": "$-$",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}
_CSV_FIGURES = ("metric", "mean", "std", "n", "p", "p_holm", "settings", "setting", "selection", "forward")
_CSV_PUBLISHED = ("published", "deviation", "published_source")


def to_markdown(table: Table) -> str:
    """For people. Published figures are a row of their own, under ours."""
    titles = ["norm", "settings", *(_full_title(table, column) for column in table.columns)]
    lines = [_markdown_row(titles), f"|{'---|' * len(titles)}"]
    for row in table.rows:
        figures = [entry.text(_MARKDOWN, table.num_seeds) for entry in table.row(row)]
        lines.append(_markdown_row([row, str(table.tried(row))], figures))
        published = [entry.published_text(_MARKDOWN) for entry in table.row(row)]
        lines += [_markdown_row([f"{row}, published", ""], published)] if any(published) else []
    lists = {"Notes": notes(table), "Missing": missing(table)}
    texts = [_escape_markdown(caption(table))]
    for title, items in lists.items():
        texts += [f"{title}:", "\n".join(f"- {_escape_markdown(item)}" for item in items)] if items else []
    return "\n".join(lines) + "\n\n" + "\n\n".join(texts) + "\n"


def _markdown_row(words: Sequence[str], figures: Sequence[str] = ()) -> str:
    return f"| {' | '.join([*map(_escape_markdown, words), *figures])} |"


def _escape_markdown(text: str) -> str:
    """Names from users stay text: no HTML, no emphasis, no further column, no further line."""
    return re.sub(r"([\\*|\[]|<(?=[A-Za-z/!?]))", r"\\\1", _one_line(text))


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _full_title(table: Table, column: Column) -> str:
    return f"{table.title(column)} {SCENARIOS[column[1]]}"


def to_latex(table: Table) -> str:
    """For a paper, with booktabs: the tabular, and the caption and notes as comments to take from."""
    titles = ["norm", "settings", *(_full_title(table, column) for column in table.columns)]
    lines = [r"\begin{tabular}{l" + "r" * (len(titles) - 1) + "}", r"\toprule"]
    lines += [" & ".join(map(_escape_latex, titles)) + r" \\", r"\midrule"]
    for row in table.rows:
        figures = [entry.text(_LATEX, table.num_seeds) for entry in table.row(row)]
        lines.append(" & ".join([_escape_latex(row), str(table.tried(row)), *figures]) + r" \\")
        published = [entry.published_text(_LATEX) for entry in table.row(row)]
        lines += [" & ".join([r"\quad published", "", *published]) + r" \\"] if any(published) else []
    comments = [caption(table), *notes(table), *missing(table)]
    lines += [r"\bottomrule", r"\end{tabular}", *(f"% {_one_line(comment)}" for comment in comments)]
    return "\n".join(lines) + "\n"


def _escape_latex(text: str) -> str:
    return "".join(_LATEX_CHARACTERS.get(character, character) for character in _one_line(text))


def to_csv(tables: Sequence[Table]) -> str:
    """For programs: a line per figure; p_holm is adjusted within each table."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["norm", *COLUMN, "scenario", *_CSV_FIGURES, *_CSV_PUBLISHED, "reason"])
    for table in tables:
        reasons = gaps(table)
        for column in table.columns:
            for row in table.rows:
                entry = table.entries[row, column]
                named = ["" if value is None else value for value in column[0]]
                figures = [table.metric, *_csv_figures(entry), *_csv_published(entry)]
                writer.writerow([row, *named, column[1], *figures, reasons.get((row, column[0]), "")])
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
