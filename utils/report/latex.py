"""A table for a paper: a float that compiles as it is, for `\\input`."""

import re
from collections.abc import Iterator, Sequence
from itertools import groupby

from utils.records.selection import COLUMN
from utils.report.captions import caption, missing, notes
from utils.report.files import printable
from utils.report.tables import Column, Lines, Style, Table, head_lines, shared_heads

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
    "-": "-{}",  # before another one, which would make a dash of them
    "*": "{*}",  # at the beginning, where it and a bracket belong to the end of the row above
    "[": "{[}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}
_SPECIAL = re.compile(rf"^\*|-(?=-)|[{re.escape(''.join(sorted(_CHARACTERS.keys() - set('-*'))))}]")
_PACKAGES = r"% needs \usepackage{booktabs} and \usepackage{adjustbox}"
_MOST_COLUMNS = 12  # of figures beside each other that one can still read where a page is as wide as they are
_NUM_NAMES = 2  # columns before the figures


def to_latex(table: Table, group: str) -> str:
    r"""A `table` with caption and label; notes and what is missing are comments to take from.

    Columns that neighbours share a head of stand under one `\multicolumn`; many columns are set in several tabulars,
    and none is wider than a line.

    Args:
        table: the figures.
        group: the group of runs, after which the label is named.
    """
    # Backticks of a caption mark words of the table.
    lines = [_PACKAGES, r"\begin{table}[tbp]", r"\centering", rf"\caption{{{escape(caption(table).replace('`', ''))}}}"]
    lines.append(rf"\label{{tab:{_label(group)}}}")
    heads = dict(zip(table.columns, head_lines(table), strict=True))
    for number, columns in enumerate(_panels(table.columns)):
        lines += [r"\par\medskip"] if number else []
        lines += [
            r"\begin{adjustbox}{max width=\linewidth}",
            *_tabular(table, columns, [heads[one] for one in columns]),
        ]
        lines.append(r"\end{adjustbox}")
    comments = [*notes(table), *missing(table)]
    lines += [r"\end{table}", *(f"% {_one_line(comment)}" for comment in comments)]
    return "\n".join(lines) + "\n"


def escape(text: str) -> str:
    """Names from users stay text, on one line."""
    return _SPECIAL.sub(lambda found: _CHARACTERS[found[0]], printable(_one_line(text)))


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _label(group: str) -> str:
    return re.sub(r"[^A-Za-z0-9._/-]+", "-", group)


def _panels(columns: Sequence[Column]) -> list[Sequence[Column]]:
    """All columns where they are few, else by dataset, in equal parts that keep the scenarios of a cell together."""
    if len(columns) <= _MOST_COLUMNS:
        return [columns]
    by_dataset = groupby(columns, key=lambda column: column[0][COLUMN.index("dataset")])
    return [part for _, members in by_dataset for part in _equal_parts(list(members))]


def _equal_parts(columns: Sequence[Column]) -> Iterator[Sequence[Column]]:
    cells = [list(members) for _, members in groupby(columns, key=lambda column: column[0])]
    num_parts = -(-len(columns) // _MOST_COLUMNS)
    size = -(-len(cells) // num_parts)
    for first in range(0, len(cells), size):
        yield [column for members in cells[first : first + size] for column in members]


def _tabular(table: Table, columns: Sequence[Column], heads: Sequence[Lines]) -> list[str]:
    lines = [
        rf"\begin{{tabular}}{{l{'r' * (_NUM_NAMES - 1 + len(columns))}}}",
        r"\toprule",
        *_heads(heads),
        r"\midrule",
    ]
    for row in table.rows:
        entries = [table.entries[row, column] for column in columns]
        figures = [entry.text(_STYLE, table.num_seeds) for entry in entries]
        lines.append(_line([escape(row), str(table.tried(row)), *figures]))
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
