"""What the commands of `run.py` share: how they read their words, and where the records are."""

import argparse
from pathlib import Path
from typing import Any

from utils.config.command_line import Parser
from utils.config.configuration import data_root
from utils.config.options import ranged
from utils.launch.grid import DEFAULT_GRID, GRIDS
from utils.launch.plan import Where


def number(kind: type, low: float):
    """An argument's type: a finite number from `low` on."""
    parse = ranged(kind, low)

    def convert(text: str):
        try:
            return parse(text)
        except ValueError as error:
            not_a_number = f"is not a {'whole ' if kind is int else ''}number"
            reason = str(error) if str(error).startswith("must be") else not_a_number
            raise argparse.ArgumentTypeError(f"{text!r} {reason}") from None

    return convert


def option_names(parser: argparse.ArgumentParser) -> list[str]:
    """Every spelling of every option of a parser, without dashes."""
    return [spelling.lstrip("-") for action in parser._actions for spelling in action.option_strings]


def add_places(parser: Any) -> None:
    """The options that say where records and data are."""
    parser.add_argument("--results_dir", type=Path, default=Path("results"), help="where the records go [results]")
    parser.add_argument("--group", default=None, help="folder of this study inside --results_dir [the preset's]")
    parser.add_argument("--data_root", default=None, help="where the data lies [$CL_DATA_ROOT, else data]")


def group_parser(command: str, description: str) -> Parser:
    """The parser of a command on the records of a group."""
    parser = Parser(prog=f"python run.py {command}", description=description, allow_abbrev=False)
    add_places(parser)
    parser.add_argument("--preset", choices=tuple(GRIDS), default=DEFAULT_GRID, help=f"its group [{DEFAULT_GRID}]")
    return parser


def places_of(options: argparse.Namespace) -> Where:
    """Where the records and the data of a command are."""
    return Where(
        options.results_dir, options.preset if options.group is None else options.group, data_root(options.data_root)
    )
