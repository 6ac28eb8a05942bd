"""Empty figures to draw on, and names as labels; matplotlib is imported where it draws."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DPI = 110


def new_figure(width: float, height: float, layout: str | None = "constrained") -> "Figure":
    """An empty figure of that size in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=_DPI, layout=layout)
    FigureCanvasAgg(figure)
    return figure


def new_panels(width: float, height: float, right: float, num_rows: int = 1, num_columns: int = 2) -> tuple:
    """A figure of that size in inches, and its panels; `right` is the margin for what stands beside them.

    The margins are fixed, since having them fitted takes several times as long as drawing.
    """
    figure = new_figure(width, height, layout=None)
    panels = figure.subplots(num_rows, num_columns, squeeze=False).ravel()
    figure.subplots_adjust(left=0.65 / width, right=1 - right / width, bottom=0.55 / height, top=1 - 0.6 / height)
    return figure, panels


def shown_name(name: str, longest: int = 20) -> str:
    """A name from a user as a label: of bounded length, and without what no font can draw."""
    text = "".join(character if character.isprintable() else "?" for character in name)
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
