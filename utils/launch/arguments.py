"""The options of `run.py` and of its commands, and what is read from them: the grid to run, the group to look at."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from utils.config.command_line import Parser, make_parser
from utils.config.options import RUNTIME_OPTIONS, Option, flag, grouped, ranged
from utils.config.registry import BACKBONES, DATASETS, METHODS, NORMS, STREAMS, unknown
from utils.config.variants import VARIANTS
from utils.errors import UserError
from utils.launch.grid import DEFAULT_GRID, GRIDS, Grid, change, find_grid
from utils.machine import MOST_THREADS
from utils.records.selection import ORACLE, SEARCH_SHARE, VALIDATION

LOCAL, SLURM = "local", "slurm"
RUNS_PER_JOB = 4
_BY_PRESET = "set by the preset"
_OF_RUNS = {option.name: replace(option, group="where") for option in RUNTIME_OPTIONS}
RESULTS_DIR = replace(_OF_RUNS["results_dir"], type=Path, default=Path("results"), help="folder of the groups")
DATA_ROOT = _OF_RUNS["data_root"]
_GROUP = Option("group", str, None, "folder of these runs inside --results_dir", group="where", metavar="NAME")


def _auto_or_number(text: str) -> str | int:
    """`auto`, or a number from 1 on."""
    if text == "auto":
        return text
    if not text.isdecimal() or int(text) < 1:
        raise ValueError("must be auto, or at least 1")
    return int(text)


_WHAT = grouped(
    "what to run",
    Option("preset", str, DEFAULT_GRID, "named grid", choices=tuple(GRIDS)),
    Option("num_seeds", ranged(int, 1), None, "run seeds 0 to N - 1", source=_BY_PRESET),
    Option("seeds", ranged(int, 0), None, "run these seeds", source=_BY_PRESET, many=True),
    Option(
        "datasets",
        str,
        None,
        "datasets, such as seq-cifar10 seq-digits",
        source=_BY_PRESET,
        many=True,
        metavar="DATASET",
    ),
    Option("models", str, None, "methods, such as derpp er_ace", source=_BY_PRESET, many=True, metavar="METHOD"),
    Option("methods", str, None, "norm layers, such as BN AdaB2N", source=_BY_PRESET, many=True, metavar="LAYER"),
    Option(
        "buffer_size",
        ranged(int, 1),
        None,
        "images in memory, on every dataset",
        source="set by the preset and dataset",
        aliases=("buffer_sizes",),
        many=True,
    ),
    Option(
        "epochs",
        ranged(int, 1),
        None,
        "epochs per task",
        source="set by the preset; without one, 1 for online methods, set by protocol and dataset for others",
        aliases=("n_epochs",),
        many=True,
    ),
    Option(
        "search",
        str,
        None,
        "options to search: the table shows each norm layer with its best values of these, and a column for every "
        "value of any other option",
        source=_BY_PRESET,
        many=True,
        flag=(),
        metavar="OPTION",
    ),
    Option(
        "selection",
        str,
        None,
        f"data on which the best setting is chosen: the test data (oracle), or {SEARCH_SHARE:.0%} of the training "
        "data, held out, after which the best setting is run on all data (validation)",
        source=_BY_PRESET,
        choices=(ORACLE, VALIDATION),
    ),
    Option(
        "search_seeds",
        ranged(int, 0),
        None,
        "run every setting on these seeds only, and the best setting on the others too",
        source="all seeds",
        many=True,
    ),
)
_WHERE = (
    RESULTS_DIR,
    replace(_GROUP, source="the preset's name, with typed options that change results"),
    DATA_ROOT,
)
_HOW = grouped(
    "how",
    flag("yes", "start without asking", aliases=("y",)),
    flag("dry_run", "print the plan and stop"),
    flag("rerun", "set the records of this plan aside and run everything again"),
    flag("keep_models", "keep the trained weights of complete runs (model.pt in each record)"),
    flag("json", "print the plan as JSON and stop"),
    Option("engine", str, LOCAL, "where the runs are done: on this machine, or on a cluster", choices=(LOCAL, SLURM)),
    Option(
        "jobs",
        ranged(int, 1),
        None,
        "runs at a time in all; with --engine slurm, jobs at a time",
        source="as the cores allow; on Slurm, any number",
    ),
    Option("threads", ranged(int, 1, MOST_THREADS), None, "CPU threads of each run", source="$OMP_NUM_THREADS, else 1"),
    Option(
        "mps_percent",
        ranged(float, 1, 100),
        None,
        "percent of the multiprocessors of a GPU for each run, where NVIDIA's Multi-Process Service runs",
        source="all of them twice, divided by the runs at a time",
        metavar="PERCENT",
    ),
    Option(
        "runs_per_gpu",
        _auto_or_number,
        "auto",
        "runs that share a GPU: as many as its memory allows and as are worthwhile (auto), or this many",
        metavar="auto|N",
    ),
    Option(
        "usage_threshold",
        ranged(float, 0.01, 1),
        0.3,
        "a GPU is idle while others use less than this share of its memory and compute time",
        metavar="SHARE",
    ),
    Option("coldsecs", ranged(float, 0), 0.0, "pause between two starts", metavar="SECONDS"),
    Option("waitsecs", ranged(float, 0.1), 5.0, "time between looks for an idle device", metavar="SECONDS"),
    Option("timeout", ranged(float, 1), None, "time limit per run", source="none", metavar="SECONDS"),
    Option("interpreter", str, sys.executable, "Python interpreter of the runs", metavar="PATH"),
    Option("logdir", Path, None, "folder for the runs' output", source="logs, in the group's folder", metavar="DIR"),
)
_ON_SLURM = grouped(
    "on a Slurm cluster",
    Option("partition", str, None, "partition of the jobs", source="the cluster's default", metavar="NAME"),
    Option("account", str, None, "account that the jobs are charged to", source="yours", metavar="NAME"),
    Option("qos", str, None, "quality of service of the jobs", source="the cluster's default", metavar="NAME"),
    Option("gres", str, None, "what each job needs, such as gpu:1", source="nothing", metavar="LIST"),
    Option("time", str, None, "time limit of each job, such as 8:00:00", source="the partition's", metavar="LIMIT"),
    Option("sbatch", str, None, 'further options of sbatch: --sbatch="--mem=32G"', source="none", metavar='"…"'),
    Option(
        "setup",
        Path,
        None,
        "script that each job sources first, which loads modules or a virtual environment",
        source="none",
        metavar="FILE",
    ),
    Option("runs_per_job", ranged(int, 1), None, "runs that each job takes", source=str(RUNS_PER_JOB)),
    flag("no_wait", "submit and leave; the same command later reads how the runs went"),
)
LAUNCH_OPTIONS = (*_WHAT, *_WHERE, *_HOW, *_ON_SLURM)


def launch_parser() -> Parser:
    """The parser of `run.py` without a command."""
    norms = [*NORMS.names(), *VARIANTS]
    parts = {
        "models": METHODS.names(),
        "datasets": DATASETS.names(),
        "methods (norm layers)": norms,
        "stream": STREAMS.names(),
        "backbone": BACKBONES.names(),
    }
    return make_parser(
        LAUNCH_OPTIONS,
        prog="python run.py",
        usage="python run.py [status|table|compare|data|cancel] [--preset PRESET] [options]",
        description="Plan a grid of runs, run it on whatever is idle, and end with the table.",
        epilog="Every option of utils/main.py may be given too; several values make an axis of the grid, and each run "
        "takes the options that its parts use.\n" + "\n".join(f"{axis}: {', '.join(parts[axis])}" for axis in parts),
    )


def check_engine(options: argparse.Namespace) -> None:
    """Raises UserError if an option of Slurm is given and the runs are done on this machine."""
    given = [option.name for option in _ON_SLURM if getattr(options, option.name) not in (None, False)]
    if options.engine == LOCAL and given:
        raise UserError(f"--{given[0]} is an option of Slurm: give --engine slurm too, or leave it out")


def read_grid(options: argparse.Namespace, words: Sequence[str]) -> Grid:
    """The grid that was asked for.

    Args:
        options: parsed by `launch_parser`.
        words: from which they were parsed.

    Raises:
        UserError: the seeds are given twice, or an axis has no value.
    """
    typed = {name: tuple(value) for name, value in vars(options).items() if isinstance(value, list)}
    if options.num_seeds is not None:
        if "seeds" in typed:
            raise UserError("--num_seeds and --seeds cannot be given together")
        typed["seeds"] = tuple(range(options.num_seeds))
    if "search" in typed:
        typed["searched"] = tuple("buffer_size" if name == "buffer_sizes" else name for name in typed.pop("search"))
    if options.selection is not None:
        typed["selection"] = options.selection
    is_preset_typed = any(word.partition("=")[0] == "--preset" for word in words)
    grid = change(find_grid(options.preset), typed)
    return grid if is_preset_typed or "epochs" in typed else replace(grid, epochs_are_online=True)


def group_parser(
    command: str, description: str, more: Sequence[Option] = (), without_name: str = "the only one there is"
) -> Parser:
    """The parser of a command on the records of a group, with more options of its own.

    Args:
        command, description: as `--help` shows them.
        more: options.
        without_name: the group that is meant if none is named, in words.
    """
    group = replace(_GROUP, source=without_name)
    name = replace(group, name="name", positional=True)
    return make_parser((name, *more, RESULTS_DIR, group), prog=f"python run.py {command}", description=description)


def group_of(options: argparse.Namespace) -> str:
    """The group that a command is asked about, by name or as the only one there is.

    Args:
        options: parsed by `group_parser`.

    Raises:
        UserError: two are named, or one that is unknown; or none, and there is none or several.
    """
    if options.name is not None and options.group is not None:
        raise UserError(f"{options.name!r} and --group {options.group} both name a group: give one of them")
    named = options.group if options.name is None else options.name
    groups = groups_in(options.results_dir)
    if named is not None:
        if not named or not (options.results_dir / named).is_dir():
            raise UserError(unknown(f"group in {options.results_dir}", named, groups))
        return named
    if not groups:
        raise UserError(f"there is no group in {options.results_dir}; give the folder of the groups with --results_dir")
    if len(groups) > 1:
        raise UserError("\n  ".join([f"several groups are in {options.results_dir}; name one of them:", *groups]))
    return groups[0]


def groups_in(results_dir: Path) -> list[str]:
    """The names of the groups of a folder, in order."""
    marks = (path for mark in ("*/plan.json", "*/*/config.json") for path in results_dir.glob(mark))
    return sorted({path.relative_to(results_dir).parts[0] for path in marks})
