"""The heads of a table's columns in several lines, and which neighbours share a line."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from utils.records.selection import COLUMN
from utils.report.tables import SCENARIOS, Column, Table, further_parts

Lines = tuple[str, ...]


@dataclass(frozen=True)
class Head:
    """A line of the heads of some neighbouring columns.

    Attributes:
        text: the line.
        first: place of the first of them, counted from 0.
        num_columns: how many they are.
    """

    text: str
    first: int
    num_columns: int


def head_lines(table: Table) -> list[Lines]:
    """Of each column the dataset, method, buffer, what else tells it apart, and scenario.

    All have as many lines; one that would be empty in all columns is left out.
    """
    found = [_lines(table, column) for column in table.columns]
    kept = [any(lines) for lines in zip(*found, strict=True)]
    return [tuple(line for line, keep in zip(lines, kept, strict=True) if keep) for lines in found]


def _lines(table: Table, column: Column) -> Lines:
    named = dict(zip(COLUMN, column[0], strict=True))
    buffer = "" if named["buffer_size"] is None else f"buffer {named['buffer_size']}"
    further = ", ".join(further_parts(column[0], [other for other, _ in table.columns]))
    return str(named["dataset"] or ""), str(named["model"] or ""), buffer, further, SCENARIOS[column[1]]


def shared_heads(columns: Sequence[Lines]) -> Iterator[list[Head]]:
    """Line by line, one head for neighbours that agree in it and in all lines above."""
    for number in range(1, len(columns[0]) + 1 if columns else 0):
        places = groupby(range(len(columns)), key=lambda place: columns[place][:number])
        members = [(lines, list(found)) for lines, found in places]
        yield [Head(lines[-1], found[0], len(found)) for lines, found in members]
