"""What the commands of `run.py` share: the options that say where records and data are, and how they are read."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from utils.config.command_line import Parser, make_parser
from utils.config.configuration import data_root
from utils.config.options import PLACE_OPTIONS, Option, grouped
from utils.errors import UserError
from utils.launch.grid import DEFAULT_GRID, GRIDS
from utils.launch.plan import Where

_OF_RUNS = {option.name: replace(option, group="where") for option in PLACE_OPTIONS}
RESULTS_DIR = replace(_OF_RUNS["results_dir"], type=Path, default=Path("results"), help="where the records are")
DATA_ROOT = _OF_RUNS["data_root"]
PRESET = Option("preset", str, DEFAULT_GRID, "named grid", choices=tuple(GRIDS), group="what to run")
_ONLY = "the only one there is"
_NAMED_BY = "the preset's, with what is typed that changes results"
PLACES = (
    RESULTS_DIR,
    Option("group", str, None, "folder of this study inside --results_dir", source=_NAMED_BY, group="where"),
    DATA_ROOT,
)


def group_parser(command: str, description: str, more: Sequence[Option] = ()) -> Parser:
    """The parser of a command on the records of a group, with more options of its own."""
    name = Option(
        "name", str, None, "folder of the study", source=_ONLY, group="where", positional=True, metavar="NAME"
    )
    places = grouped("where", RESULTS_DIR, replace(PLACES[1], source=_ONLY), DATA_ROOT)
    return make_parser((name, *more, *places), prog=f"python run.py {command}", description=description)


def places_of(options: argparse.Namespace) -> Where:
    """Where the records and the data of a command are.

    Raises:
        UserError: no group is named, and there is none or several.
    """
    name = getattr(options, "name", None)
    if name is not None and options.group is not None:
        raise UserError(f"{name!r} and --group {options.group} both name a group: give one of them")
    return Where(options.results_dir, name or options.group or _only_group(options), data_root(options.data_root))


def _only_group(options: argparse.Namespace) -> str:
    groups = groups_in(options.results_dir)
    if not groups:
        raise UserError(f"there is no group in {options.results_dir}; name the place of the records with --results_dir")
    if len(groups) > 1:
        raise UserError("\n  ".join([f"several groups are in {options.results_dir}; name one of them:", *groups]))
    return groups[0]


def groups_in(results_dir: Path) -> list[str]:
    """The names of the groups of a folder, in order."""
    marks = (path for mark in ("*/plan.json", "*/*/config.json") for path in results_dir.glob(mark))
    return sorted({path.relative_to(results_dir).parts[0] for path in marks})
