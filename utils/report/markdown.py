"""Markdown, for people: a table with all that is said under it, and parts in which names from users stay text."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from utils.report.captions import caption, missing, notes
from utils.report.tables import PLAIN, Table, TextTable

_STYLE = replace(PLAIN, bold="**{}**", star=r" \*")
_MARKS = r"\\*|\["


def escape(text: str, *, with_code: bool = False) -> str:
    """No HTML, no emphasis, no further column, no further line; code only where the text is ours and says so."""
    marks = _MARKS if with_code else f"{_MARKS}`"
    return re.sub(rf"([{marks}]|<(?=[A-Za-z/!?]))", r"\\\1", " ".join(text.split()))


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of plain texts."""
    return "\n".join([*_head(titles), *map(_row, rows)])


def _head(titles: Sequence[str]) -> list[str]:
    return [_row(titles), f"|{'---|' * len(titles)}"]


def _row(texts: Sequence[str], figures: Sequence[str] = ()) -> str:
    """A line of a table: plain texts, then figures that are Markdown already."""
    return f"| {' | '.join([*map(escape, texts), *figures])} |"


def section(title: str, items: Iterable[str]) -> list[str]:
    """A heading and a list of plain texts as two blocks; nothing without items."""
    lines = _bullets(items)
    return [f"## {escape(title)}", lines] if lines else []


def _bullets(items: Iterable[str]) -> str:
    """A list of plain texts."""
    return "\n".join(f"- {escape(item)}" for item in items)


def to_markdown(shown: Table, others: Iterable[TextTable] = ()) -> str:
    """A table of figures with all that is said under it, and other tables below.

    Published figures are a row of their own, under ours.
    """
    titles = ["norm", "settings", *(f"{shown.title(column)} {shown.scenario(column)}" for column in shown.columns)]
    lines = _head(titles)
    for name in shown.rows:
        title, entries = shown.show(name), shown.row(name)
        lines.append(_row([title, str(shown.tried(name))], [entry.text(_STYLE, shown.num_seeds) for entry in entries]))
        published = [entry.published_text(_STYLE) for entry in entries]
        lines += [_row([f"{title}, published", ""], published)] if any(published) else []
    texts = [escape(caption(shown), with_code=True)]
    for title, items in {"Notes": notes(shown), "Missing": missing(shown)}.items():
        texts += [f"{title}:", _bullets(items)] if items else []
    for other in others:
        texts += [f"## {escape(other.title)}", table(other.titles, other.rows), escape(other.caption)]
    return "\n\n".join(["\n".join(lines), *texts]) + "\n"
