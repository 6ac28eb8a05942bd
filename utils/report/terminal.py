"""A report on a terminal: tables that fit its width, and text wrapped between words."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.table import Table as Drawing
from rich.text import Text

from utils.report.captions import caption, missing, notes
from utils.report.report import Report
from utils.report.tables import PLAIN, Lines, Table, TextTable, head_lines

_GAP = 2  # between two columns
_WIDEST_NAME = 24  # of a row; a longer one is broken
_WIDEST_LINE = 18  # of a head that is not wrapped
_WIDEST_WORD = 40  # of a head; a longer one is broken


@dataclass(frozen=True)
class _Column:
    """A column of a drawing.

    Attributes:
        head: lines of its title, as many as its neighbours have.
        cells: by row.
    """

    head: Lines
    cells: tuple[Text, ...]

    @property
    def width(self) -> int:
        """The width of its figures, or of a longer word of its head."""
        lines = [min(cell_len(line), _WIDEST_LINE) for line in self.head]
        words = [min(cell_len(word), _WIDEST_WORD) for line in self.head for word in line.split()]
        return max([1, *lines, *words, *(cell.cell_len for cell in self.cells)])


def show_on(console: Console, report: Report) -> None:
    """Print the main table, what is said under it, and the tables beside it.

    Where not even one column fits, the terminal is left to break the lines: no figure is lost.
    """
    parts = [*_main(report.table, console.width)]
    for other in report.others:
        parts += _texts(other, console.width)
    console.width = max(console.width, *(part.width for part in parts if isinstance(part, Drawing) and part.width))
    for part in parts:
        console.print(part, highlight=False)


def _main(table: Table, width: int) -> Iterator[RenderableType]:
    rows = [cells for name in table.rows for cells in _rows(table, name)]
    heads = [("norm",), ("settings",), *head_lines(table)]
    columns = zip(*rows, strict=True) if rows else [()] * len(heads)
    names, settings, *figures = (_Column(*pair) for pair in zip(heads, columns, strict=True))
    yield from _draw([names, settings], figures, width)
    yield _text(caption(table).replace("`", ""))
    yield Text("")
    yield from _list("Notes", notes(table))
    yield from _list("Missing", missing(table))


def _rows(table: Table, name: str) -> Iterator[list[Text]]:
    """A norm layer's cells, and those of published figures below them."""
    entries = table.row(name)
    figures = [Text(entry.text(PLAIN, table.num_seeds), "bold" if entry.is_best else "") for entry in entries]
    yield [_text(table.show(name)), Text(str(table.tried(name))), *figures]
    published = [Text(entry.published_text(PLAIN), "dim") for entry in entries]
    if any(published):
        yield [Text("  published"), Text(""), *published]


def _text(text: str) -> Text:
    """Names from users stay text on one line, and send the terminal no codes."""
    line = " ".join(text.split())
    return Text("".join(character if character.isprintable() else "?" for character in line))


def _texts(found: TextTable, width: int) -> Iterator[RenderableType]:
    yield Text(f"{found.title}\n", "bold")
    columns = (tuple(map(_text, texts)) for texts in zip(*found.rows, strict=True))
    names, *figures = (_Column((title,), cells) for title, cells in zip(found.titles, columns, strict=True))
    yield from _draw([names], figures, width)
    yield _text(found.caption)
    yield Text("")


def _list(title: str, items: Iterable[str]) -> Iterator[RenderableType]:
    grid = Drawing.grid(padding=(0, 1))
    for item in items:
        grid.add_row("-", _text(item))
    if grid.row_count:
        yield Text(f"{title}:")
        yield grid
        yield Text("")


def _draw(leading: Sequence[_Column], columns: Sequence[_Column], width: int) -> Iterator[RenderableType]:
    """Tables one below the other, each with the leading columns and as many others as fit."""
    room = width - sum(min(column.width, _WIDEST_NAME) + _GAP for column in leading)
    for part in _split(columns, room) or [[]]:
        yield _drawing(leading, part)
        yield Text("")


def _split(columns: Sequence[_Column], room: int) -> list[list[_Column]]:
    """Columns that fit the room; those that differ in their last line only stay together where they can."""
    parts: list[list[_Column]] = []
    for _, members in groupby(columns, key=lambda column: column.head[:-1]):
        unit = list(members)
        for group in [unit] if _width(unit) <= room else [[column] for column in unit]:
            if parts and _width([*parts[-1], *group]) <= room:
                parts[-1] += group
            else:
                parts.append(list(group))
    return parts


def _width(columns: Sequence[_Column]) -> int:
    return sum(column.width + _GAP for column in columns) - _GAP


def _drawing(leading: Sequence[_Column], columns: Sequence[_Column]) -> Drawing:
    widths = [min(column.width, _WIDEST_NAME) for column in leading] + [column.width for column in columns]
    width = sum(widths) + _GAP * (len(widths) - 1)
    drawing = Drawing(
        box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="", width=width
    )
    for number, (column, room) in enumerate(zip([*leading, *columns], widths, strict=True)):
        justify: Literal["right", "left"] = "right" if number else "left"
        head = Text("\n", justify=justify, overflow="fold").join(map(_text, column.head))
        drawing.add_column(head, width=room, justify=justify, vertical="bottom", overflow="fold")
    for cells in zip(*(column.cells for column in [*leading, *columns]), strict=True):
        if any(cell.plain for cell in cells[len(leading) :]):  # published figures may all be in another part
            drawing.add_row(*cells)
    return drawing
