"""Markdown in which names from users stay text."""

import re
from collections.abc import Iterable, Sequence


def escape(text: str) -> str:
    """No HTML, no emphasis, no further column, no further line."""
    return re.sub(r"([\\`*|\[]|<(?=[A-Za-z/!?]))", r"\\\1", " ".join(text.split()))


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of plain texts."""
    lines = [_row(titles), f"|{'---|' * len(titles)}", *map(_row, rows)]
    return "\n".join(lines)


def _row(texts: Sequence[str]) -> str:
    return f"| {' | '.join(map(escape, texts))} |"


def section(title: str, items: Iterable[str]) -> list[str]:
    """A heading and a list of plain texts as two blocks; nothing without items."""
    lines = [f"- {escape(item)}" for item in items]
    return [f"## {escape(title)}", "\n".join(lines)] if lines else []
