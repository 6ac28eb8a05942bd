"""Every option is declared once, as an `Option`: the shared ones here, a part's own beside its class."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Option:
    """One option of the command line.

    Attributes:
        name: without dashes; `aliases` are further spellings of it.
        type: turns the typed text into the value; ValueError's message is shown to the user.
        default: the value if nobody gives one; None where protocol, method, backbone or settings decide.
        help: one line, the unit in it.
        choices: the allowed values, if they are few.
        flag: may stand alone, which means this value.
        changes_result: False for where and how a run is done, which is no part of its identity.
    """

    name: str
    type: Callable[[str], Any]
    default: Any
    help: str
    aliases: tuple[str, ...] = ()
    choices: tuple | None = None
    flag: Any = None
    changes_result: bool = True


def boolean(text: str) -> bool:
    """`1`, `true`, `yes` or `0`, `false`, `no`."""
    word = text.casefold()
    if word in ("1", "true", "yes"):
        return True
    if word in ("0", "false", "no"):
        return False
    raise ValueError("is neither 1/true nor 0/false")


def ranged(kind: type, low=None, high=None) -> Callable[[str], Any]:
    """A finite number type with inclusive bounds."""

    def parse(text: str):
        value = kind(text)
        if value != value or abs(value) == float("inf"):
            raise ValueError("must be finite")
        if (low is not None and value < low) or (high is not None and value > high):
            bounds = f"from {low}" + (f" to {high}" if high is not None else "")
            raise ValueError(f"must be {bounds}")
        return value

    parse.__name__ = kind.__name__
    return parse


def flag(name: str, help: str, **more) -> Option:
    """An option that is off unless it is named; `--name 0` and `--name 1` work too."""
    return Option(name, boolean, False, help, flag=True, **more)
