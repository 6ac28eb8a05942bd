"""How an option is declared. Layers declare theirs beside their class; a command line may offer them."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

Role = Literal["part", "result", "measurement", "runtime", "shorthand"]


@dataclass(frozen=True)
class Condition:
    """What must hold for an option to change anything.

    Attributes:
        of: names of the options whose values decide. `transforms`, `num_tasks` (those of the run) and attributes of its
            parts, such as `method.schedule`, may be named too.
        holds: takes these values.
        words: what is missing where it does not hold; `{0}` stands for the first of the values.
    """

    of: tuple[str, ...]
    holds: Callable[..., bool]
    words: str

    def missing(self, values: Mapping[str, Any]) -> str:
        """What is missing, in words; empty if it holds, or if that cannot be told, as a record may lack a value."""
        if not all(name in values for name in self.of):
            return ""
        seen = [values[name] for name in self.of]
        return "" if self.holds(*seen) else self.words.format(*seen)


def above(option: str, bound: float) -> Condition:
    """The value of another option is above a bound."""
    return Condition((option,), lambda value: value > bound, f"it needs --{option} above {bound:g}")


def chosen(option: str, value: Any) -> Condition:
    """Another option has this value."""
    typed = int(value) if isinstance(value, bool) else value
    return Condition((option,), lambda found: found == value, f"it belongs to --{option} {typed}")


@dataclass(frozen=True)
class Option:
    """One option of a command line.

    Attributes:
        name: without dashes; `aliases` are further spellings of it, those of one letter with one dash.
        type: turns the typed text into the value; ValueError's message is shown to the user.
        default: the value if nobody gives one; None where something else decides.
        help: one line, the unit in it, without the default.
        source: what decides before the default does, such as `by the protocol`, or in its place where it is None.
        required: there must be a value, from `source` or typed.
        group: the heading in `--help`; empty for an option of a part, which stands under the part's name.
        choices: the allowed values, if they are few.
        metavar: what stands for its value in `--help`, such as `DIR`; where it is empty, its type says it.
        flag: may stand alone, which means this value.
        many: takes one word or more, and may be repeated.
        positional: is typed without its name.
        role: `part`, names a part of the run; `result`, changes what is trained; `measurement`, only what is measured
            of it; `runtime`, where and how a run is done, which is no part of its identity; `shorthand`, is gone when
            other options have got their values by it.
        stands_for: options that get its value, those of them that the run has; it has none of its own.
        meaning: what these options get, by its value, None being nothing; without it, they get the value itself.
        excludes: options that cannot be given together with this one, whose defaults give way to it.
        active_when: what must hold, all of it, for the option to change anything.
        min_tasks: tasks that a stream needs for the option to change anything.
        needs_memory: it changes nothing before a batch holds rows of memory.
        always_in_identity: it counts in the identity of a run also where it changes nothing.
    """

    name: str
    type: Callable[[str], Any]
    default: Any
    help: str
    source: str = ""
    required: bool = False
    group: str = ""
    aliases: tuple[str, ...] = ()
    choices: tuple | None = None
    metavar: str = ""
    flag: Any = None
    many: bool = False
    positional: bool = False
    role: Role = "result"
    stands_for: tuple[str, ...] = ()
    meaning: Callable[[Any], Any] | None = None
    excludes: tuple[str, ...] = ()
    active_when: tuple[Condition, ...] = ()
    min_tasks: int = 1
    needs_memory: bool = False
    always_in_identity: bool = False

    @property
    def changes_result(self) -> bool:
        """Whether it is part of a run's identity."""
        return self.role in ("part", "result", "measurement")

    @property
    def spellings(self) -> tuple[str, ...]:
        """Every name it can be typed by, without dashes."""
        return (self.name, *self.aliases)

    def inactive_because(self, values: Mapping[str, Any]) -> str:
        """Why the option changes nothing beside these values, in words; empty if it does, or if that cannot be told.

        Args:
            values: of the options and of what else a `Condition` may name.
        """
        num_tasks = values.get("num_tasks") or values.get("n_tasks")
        if num_tasks and num_tasks < self.min_tasks:
            return f"it needs at least {self.min_tasks} tasks" + (" (--n_tasks)" if "n_tasks" in values else "")
        return next(filter(None, (condition.missing(values) for condition in self.active_when)), "")


def changed(options: Iterable[Option], **changes: Mapping[str, Any]) -> tuple[Option, ...]:
    """The options with fields of some of them changed, by the option's name: what is otherwise for one part."""
    return tuple(replace(option, **changes.get(option.name, {})) for option in options)


def boolean(text: str) -> bool:
    """`1`, `true`, `yes` or `0`, `false`, `no`."""
    word = text.casefold()
    if word in ("1", "true", "yes"):
        return True
    if word in ("0", "false", "no"):
        return False
    raise ValueError("is neither 1/true nor 0/false")


def ranged(kind: type[int] | type[float], low: float | None = None, high: float | None = None) -> Callable[[str], Any]:
    """A finite number type with inclusive bounds."""

    def parse(text: str) -> float:
        value = kind(text)
        if value != value or abs(value) == float("inf"):
            raise ValueError("must be finite")
        if (low is not None and value < low) or (high is not None and value > high):
            raise ValueError(f"must be at least {low}" if high is None else f"must be from {low} to {high}")
        return value

    parse.__name__ = kind.__name__
    return parse


def flag(name: str, help: str, **more: Any) -> Option:
    """An option that is off unless it is named; `--name 0` and `--name 1` work too."""
    return Option(name, boolean, False, help, flag=True, **more)


def sets(name: str, option: str, value: Any, help: str, **more: Any) -> Option:
    """A flag that gives another option a value; `--name 0` gives it none."""
    return flag(name, help, stands_for=(option,), meaning=lambda is_set: value if is_set else None, **more)


def published(name: str, type: Callable[[str], Any], help: str, **more: Any) -> Option:
    """An option that the published settings of a method give, and that is required where there are none."""
    return Option(name, type, None, help, source="from the published settings", required=True, **more)


def whole_numbers(text: str) -> tuple[int, ...]:
    """A comma-separated list, such as `35,45`; the empty text is the empty list."""
    return tuple(int(part) for part in text.split(",") if part.strip())


def tristate(text: str) -> bool | None:
    """`auto` (None), or a truth value."""
    return None if text.casefold() == "auto" else boolean(text)


def grouped(group: str, *options: Option, **more: Any) -> tuple[Option, ...]:
    """Options under one heading of `--help`, with further fields that they share."""
    return tuple(replace(option, group=group, **more) for option in options)
