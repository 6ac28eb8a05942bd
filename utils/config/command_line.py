"""The command line of one run: its options, and the explanation of one that no part uses."""

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, NoReturn

from utils.config.options import ABSENT, OF_GRIDS, PART_OPTIONS, Option
from utils.config.parts import Parts, options_of
from utils.config.registry import BACKBONES, DATASETS, METHODS, NORMS, STREAMS, unknown
from utils.errors import UserError

SELECTORS = {"model": METHODS, "dataset": DATASETS, "stream": STREAMS, "nl": NORMS, "backbone": BACKBONES}
PROGRAM: dict[str, Any] = {
    "prog": "python utils/main.py",
    "usage": "python utils/main.py --model METHOD --dataset DATASET [--nl NORM] [options]",
    "description": "One run of class-incremental learning, end to end.",
}


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def __init__(self, **program: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **program)

    def error(self, message: str) -> NoReturn:
        raise UserError(message)


def make_parser(
    options: Iterable[Option],
    *,
    only_typed: bool = False,
    defaults: Mapping[str, str] | None = None,
    **program: Any,
) -> Parser:
    """The parser of a program or a command, its options under the headings of their groups.

    Args:
        options: what it takes.
        only_typed: leave out what was not typed; otherwise it has its default.
        defaults: what is shown as the default of some options, by name; of the others, their own.
        program: name, usage, description and the like, as `argparse` takes them.
    """
    parser = Parser(**program)
    groups: dict[str, Any] = {}
    for option in options:
        if option.group not in groups:
            groups[option.group] = parser.add_argument_group(option.group)
        shown = _default_text(option) if defaults is None else defaults.get(option.name, _default_text(option))
        names = [option.name] if option.positional else [_dashed(spelling) for spelling in option.spellings]
        groups[option.group].add_argument(
            *names,
            **({} if option.positional else {"dest": option.name}),
            default=argparse.SUPPRESS if only_typed else option.default,
            type=_converter(option),
            help=f"{option.help} {shown}".rstrip().replace("%", "%%"),
            metavar=_metavar(option),
            **_number_of_words(option),
        )
    return parser


def _dashed(spelling: str) -> str:
    return f"-{spelling}" if len(spelling) == 1 else f"--{spelling}"


def _number_of_words(option: Option) -> dict[str, Any]:
    if option.many:
        words = "+" if option.flag is None else "*"
        return {"nargs": words} | ({} if option.positional else {"action": "extend"})
    if option.positional:
        return {"nargs": "?"}
    return {} if option.flag is None else {"nargs": "?", "const": option.flag}


def _default_text(option: Option) -> str:
    """The default in brackets; in parentheses where something else decides, or where there must be a value."""
    if option.default is None or option.default == "":
        words = [option.source, "required" if option.required else ""]
        return f"({', else '.join(filter(None, words))})" if any(words) else ""
    default = typed_text(option.default)
    return f"[{option.source}, else {default}]" if option.source else f"[{default}]"


def typed_text(value: Any) -> str:
    """An option's value as one would type it."""
    if isinstance(value, list | tuple):
        return ",".join(map(typed_text, value))
    return str(int(value)) if isinstance(value, bool) else str(value)


def _metavar(option: Option) -> str:
    if option.choices:
        return "{" + ",".join(option.choices) + "}"
    by_type = {"int": "N", "float": "FLOAT", "boolean": "0|1", "Path": "PATH"}
    return option.metavar or by_type.get(getattr(option.type, "__name__", ""), "VALUE")


def _converter(option: Option) -> Callable[[str], Any]:
    def convert(text: str) -> Any:
        try:
            value = option.type(text)
        except ValueError as error:
            reason = str(error) if "invalid literal" not in str(error) and "could not" not in str(error) else None
            kind = {"int": "is not an integer", "float": "is not a number"}.get(option.type.__name__, "is not valid")
            raise argparse.ArgumentTypeError(f"{text!r} {reason or kind}") from None
        if option.choices and value not in option.choices:
            raise argparse.ArgumentTypeError(f"{text!r} is not one of {', '.join(option.choices)}")
        return value

    return convert


@cache
def _parser_of(options: tuple[Option, ...]) -> Parser:
    """The parser of a set of options, made once: a large plan reads a thousand command lines."""
    return make_parser(options, only_typed=True, add_help=False, **PROGRAM)


@cache
def part_parser() -> Parser:
    """Knows the names of the parts alone, and whether help is wanted."""
    parser = make_parser(PART_OPTIONS, only_typed=True, add_help=False)
    parser.add_argument("-h", "--help", action="store_true", dest="help")
    return parser


def parse_known(arguments: Sequence[str], options: Mapping[str, Option]) -> tuple[dict[str, Any], list[str]]:
    """What was typed of these options, by name, and the words that belong to none of them."""
    typed, others = _parser_of(tuple(options.values())).parse_known_args(list(arguments))
    return vars(typed), others


def parse(arguments: Sequence[str], options: dict[str, Option], parts: Parts) -> dict[str, Any]:
    """What was typed, by the name of the option.

    Args:
        arguments: the words.
        options: those that the chosen parts take, by name.
        parts: the chosen parts.

    Raises:
        UserError: a word that belongs to no option, or to one that these parts do not use.
    """
    typed, others = parse_known(arguments, options)
    for word in others:
        if word.startswith("--"):
            raise UserError(_explain_unused(word[2:].partition("=")[0], options, parts))
    if others:
        raise UserError(f"unexpected argument {others[0]!r}")
    return typed


def spellings_of_parts() -> dict[str, list[str]]:
    """The parts that declare an option, such as `norm layer CN`, by every spelling of its name."""
    users: dict[str, dict[str, None]] = {}
    for registry in SELECTORS.values():
        for part_name in registry.names():
            for option in options_of(registry.get(part_name)):
                for spelling in option.spellings:
                    users.setdefault(spelling, {})[f"{registry.kind} {part_name}"] = None
    return {spelling: list(parts) for spelling, parts in users.items()}


def _explain_unused(name: str, options: dict[str, Option], parts: Parts) -> str:
    """Why a run does not take an option: parts that it does not have use it, or none does."""
    if name in ABSENT:
        return f"there is no --{name} here: {ABSENT[name]}"
    if name in OF_GRIDS:
        return f"--{name} is an option of run.py, which runs a grid" + (OF_GRIDS[name] and f": give {OF_GRIDS[name]}")
    if name in {option.name for option in options_of(parts.norm) if option.needs_memory}:
        replaying = [each for each in METHODS.names() if METHODS.get(each).uses_memory]
        return f"--{name} needs memory rows in the batch: use a --model with memory ({', '.join(replaying)})"
    users = spellings_of_parts().get(name)
    if users:
        here = f"{parts.method.name} on {parts.dataset.name}, {parts.norm.name} in {parts.backbone.name}"
        return f"nothing in this run ({here}) uses --{name}; it belongs to {', '.join(users)}"
    known = (f"--{spelling}" for option in options.values() for spelling in option.spellings)
    return unknown("option", f"--{name}", known, is_listed=False)
