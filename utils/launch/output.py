"""The launcher's standard output: lines that fit a terminal, and what is left to do where its reader has gone."""

import os
import shutil
import sys
import textwrap
from collections.abc import Iterable


def show(lines: Iterable[str]) -> None:
    """Print lines, on a terminal broken between words."""
    if sys.stdout is not None and sys.stdout.isatty():
        width = shutil.get_terminal_size().columns
        lines = [wrap(line, width) for line in lines]
    print(*lines, sep="\n", flush=True)


def wrap(line: str, width: int) -> str:
    """A line broken between words, what follows the first break being indented; a longer word stays whole."""
    indent = " " * (len(line) - len(line.lstrip()) + 2)
    room = max(len(indent) + 1, width)
    lines = textwrap.wrap(line, room, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines)


def discard_output() -> None:
    """Send what is still printed nowhere, so that the interpreter does not complain at its end."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
