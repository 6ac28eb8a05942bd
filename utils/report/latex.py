"""A table for a paper: a float that compiles as it is, for `\\input`."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby

from utils.report.captions import details, missing, notes, shortest_caption, sources, variants
from utils.report.names import printable
from utils.report.tables import Lines, ScenarioColumn, Style, Table, head_lines, shared_heads

_STYLE = Style(bold=r"\textbf{{{}}}", plus_minus=r"$\pm$", star="$^*$", minus="$-$", dash="--")
_CHARACTERS = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "`": r"\textasciigrave{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "–": "--",
    "−": "$-$",
    "²": "$^2$",
    "×": r"$\times$",
    "→": r"$\to$",
    "-": "-{}",  # before another one, which would make a dash of them
    "*": "{*}",  # at the beginning, where it and a bracket belong to the end of the row above
    "[": "{[}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}
_SPECIAL = re.compile(rf"^\*|-(?=-)|[{re.escape(''.join(sorted(_CHARACTERS.keys() - set('-*'))))}]")
_PACKAGES = r"% needs \usepackage{booktabs} and \usepackage{adjustbox}"
_MOST_COLUMNS = 8  # of figures beside each other that one can still read where a page is as wide as they are
_NUM_NAMES = 2  # columns before the figures
_METRICS = re.compile(r"\b([AW]_[a-z]\b|F(?=, mean))")  # that texts of ours name


def to_latex(table: Table, group: str) -> str:
    r"""A `table` with a short caption, a label and its notes below; a wide study has one for each dataset.

    Columns that neighbours share a head of stand under one `\multicolumn`; many columns are set in several tabulars,
    and none is wider than a line. Settings and what is missing are comments to take from.

    Args:
        table: the figures; names that it does not give are shown as papers write them.
        group: the group of runs, after which the labels are named.
    """
    table = replace(table, names=table.published_names)
    if len(table.columns) <= _MOST_COLUMNS:
        floats = _float(table, _label(group))
    else:
        by_dataset = groupby(table.columns, key=lambda column: column.column.dataset)
        parts = [(str(dataset), table.narrow(columns)) for dataset, columns in by_dataset]
        floats = [line for name, part in parts for line in _float(part, _label(f"{group}-{name}"), table.show(name))]
    comments = [*notes(table), *missing(table)]
    return "\n".join([_PACKAGES, *floats, *(f"% {_one_line(comment)}" for comment in comments)]) + "\n"


def _float(table: Table, label: str, dataset: str = "") -> list[str]:
    caption = f"{dataset}: {shortest_caption(table)}" if dataset else shortest_caption(table)
    lines = [
        r"\begin{table}[tbp]",
        r"\centering\setlength{\tabcolsep}{4pt}",
        rf"\caption{{{_escape_ours(caption)}}}",
        rf"\label{{tab:{label}}}",
    ]
    heads = dict(zip(table.columns, head_lines(table), strict=True))
    for number, columns in enumerate(_equal_parts(table.columns) if table.columns else [()]):
        lines += [r"\par\medskip"] if number else []
        lines += [r"\begin{adjustbox}{max width=\linewidth}"]
        lines += [*_tabular(table, columns, [heads[one] for one in columns]), r"\end{adjustbox}"]
    below = [*details(table), *(f"{text[0].upper()}{text[1:]}." for text in [*variants(table), *sources(table)])]
    if below:
        lines += [r"\par\smallskip", r"\parbox{\linewidth}{\footnotesize", *map(_escape_ours, below), r"\par}"]
    return [*lines, r"\end{table}"]


def escape(text: str) -> str:
    """Names from users stay text, on one line."""
    return _SPECIAL.sub(lambda found: _CHARACTERS[found[0]], printable(_one_line(text)))


def _escape_ours(text: str) -> str:
    """The same of a caption or a note: backticks mark words of the table, and metrics are set as formulas."""
    parts = _METRICS.split(text.replace("`", ""))
    return "".join(f"${part}$" if number % 2 else _escape_part(part) for number, part in enumerate(parts))


def _escape_part(text: str) -> str:
    """With the blanks around it."""
    return " " * text[:1].isspace() + escape(text) + " " * (text.strip() != "" and text[-1:].isspace())


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _label(group: str) -> str:
    return re.sub(r"[^A-Za-z0-9._/-]+", "-", group)


def _equal_parts(columns: Sequence[ScenarioColumn]) -> Iterator[Sequence[ScenarioColumn]]:
    """As few as can be read, which keep the scenarios of a cell together."""
    cells = [list(members) for _, members in groupby(columns, key=lambda column: column[0])]
    num_parts = -(-len(columns) // _MOST_COLUMNS)
    size = -(-len(cells) // num_parts)
    for first in range(0, len(cells), size):
        yield [column for members in cells[first : first + size] for column in members]


def _tabular(table: Table, columns: Sequence[ScenarioColumn], heads: Sequence[Lines]) -> list[str]:
    lines = [
        rf"\begin{{tabular}}{{l{'r' * (_NUM_NAMES - 1 + len(columns))}}}",
        r"\toprule",
        *_heads(heads),
        r"\midrule",
    ]
    for row in table.rows:
        entries = [table.entries[row, column] for column in columns]
        figures = [entry.text(_STYLE, table.num_seeds) for entry in entries]
        lines.append(_line([escape(table.show(row)), str(table.tried(row)), *figures]))
        published = [entry.published_text(_STYLE) for entry in entries]
        lines += [_line([r"\quad published", "", *published])] if any(published) else []
    return [*lines, r"\bottomrule", r"\end{tabular}"]


def _heads(columns: Sequence[Lines]) -> list[str]:
    """All lines but the last are over several columns, each with a rule below."""
    *upper, last = list(shared_heads(columns)) or [[]]
    lines = []
    for heads in upper:
        shown = [head for head in heads if head.text]
        lines.append(
            _line(["", "", *(rf"\multicolumn{{{head.num_columns}}}{{c}}{{{escape(head.text)}}}" for head in heads)])
        )
        ends = [(head.first + _NUM_NAMES + 1, head.first + _NUM_NAMES + head.num_columns) for head in shown]
        lines.append(" ".join(rf"\cmidrule(lr){{{first}-{end}}}" for first, end in ends))
    return [*lines, _line(["norm", "settings", *(escape(head.text) for head in last)])]


def _line(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"
