"""What the commands of `run.py` share: the options that say where records and data are, and how they are read."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from utils.config.command_line import Parser, make_parser
from utils.config.configuration import data_root
from utils.config.options import Option, grouped
from utils.launch.grid import DEFAULT_GRID, GRIDS
from utils.launch.plan import Where

RESULTS_DIR = Option("results_dir", Path, Path("results"), "where the records are", group="where")
DATA_ROOT = Option("data_root", str, None, "where the data lies", source="$CL_DATA_ROOT, else data", group="where")
PRESET = Option("preset", str, DEFAULT_GRID, "named grid", choices=tuple(GRIDS), group="what to run")
PLACES = (
    RESULTS_DIR,
    Option("group", str, None, "folder of this study inside --results_dir", source="the preset's", group="where"),
    DATA_ROOT,
)


def group_parser(command: str, description: str, more: Sequence[Option] = ()) -> Parser:
    """The parser of a command on the records of a group, with more options of its own."""
    options = (*more, *PLACES, *grouped("where", PRESET, help="its group"))
    return make_parser(options, prog=f"python run.py {command}", description=description)


def places_of(options: argparse.Namespace) -> Where:
    """Where the records and the data of a command are."""
    return Where(
        options.results_dir, options.preset if options.group is None else options.group, data_root(options.data_root)
    )
