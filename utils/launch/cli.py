"""The command line of `run.py`. What is heavy is imported where it is used, so that `--help` answers at once."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from utils.configuration import data_root
from utils.errors import COMPLETE, MISTAKE, RunError, UserError
from utils.launch.grid import DEFAULT_GRID, GRIDS, Grid, change, find_grid
from utils.launch.plan import STARTED, Plan, Where, known_parts, make_plan, read_extras
from utils.options import ranged


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:
        raise UserError(message)


def main(arguments: Sequence[str] | None = None) -> int:
    """Launch, or one of the other commands; the exit code is 0 only if everything asked for is complete."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    commands = {"status": status, "table": table, "data": data}
    try:
        if words and words[0] in commands:
            return commands[words[0]](words[1:])
        return launch(words)
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130


def _number(kind: type, low: float):
    parse = ranged(kind, low)

    def convert(text: str):
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None

    return convert


def _add_places(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--results_dir", type=Path, default=Path("results"), help="where the records go [results]")
    parser.add_argument("--group", help="folder of this study inside --results_dir (the preset's name)")
    parser.add_argument("--data_root", help="where the data lies ($CL_DATA_ROOT, else data)")


def _launch_parser() -> _Parser:
    parser = _Parser(
        prog="python run.py",
        usage="python run.py [status|table|data] [--preset NAME] [options]",
        description="Plan a grid of runs, run it on whatever is idle, and end with the table.",
        epilog="Every option of utils/main.py may be given too; each run takes those that its parts use.\n"
        + "\n".join(f"{axis}: {', '.join(names)}" for axis, names in known_parts().items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    _add_axes(parser.add_argument_group("what to run"))
    _add_places(parser.add_argument_group("where"))
    _add_scheduling(parser.add_argument_group("how"))
    return parser


def _add_axes(group: Any) -> None:
    group.add_argument("--preset", choices=tuple(GRIDS), default=DEFAULT_GRID, help=f"named grid [{DEFAULT_GRID}]")
    group.add_argument("--num_seeds", type=_number(int, 1), metavar="N", help="seeds 0 to N - 1")
    group.add_argument("--seeds", type=_number(int, 0), nargs="*", metavar="SEED")
    group.add_argument("--datasets", nargs="*", metavar="NAME")
    group.add_argument("--models", nargs="*", metavar="NAME", help="methods, such as derpp er_ace")
    group.add_argument("--methods", nargs="*", metavar="NORM", help="norm layers, such as BN TBBN AdaB2N")
    group.add_argument("--buffer_sizes", type=_number(int, 1), nargs="*", metavar="N")
    group.add_argument("--epochs", type=_number(int, 1), nargs="*", metavar="N")
    group.add_argument("--kappa", type=_number(float, 0), nargs="*", metavar="X", help="searched for AdaB2N")
    group.add_argument("--lambd", type=_number(float, 0), nargs="*", metavar="X", help="searched for AdaB2N")
    group.add_argument("--ada_t0", type=_number(int, 0), nargs="*", metavar="T", help="searched for AdaB2N")


def _add_scheduling(group: Any) -> None:
    group.add_argument("-y", "--yes", action="store_true", default=False, help="do not ask before starting")
    group.add_argument("--dry_run", action="store_true", default=False, help="print the plan and stop")
    group.add_argument("--json", action="store_true", default=False, help="print the plan for programs, and stop")
    group.add_argument("--jobs", type=_number(int, 1), metavar="N", help="runs at a time without a GPU (the cores)")
    group.add_argument("--runs_per_gpu", default="auto", metavar="auto|N", help="runs that share a GPU [auto]")
    group.add_argument("--usage_threshold", type=_number(float, 0), default=0.3, metavar="SHARE")
    group.add_argument("--coldsecs", type=_number(float, 0), default=0.0, metavar="S", help="pause after a start [0]")
    group.add_argument("--waitsecs", type=_number(float, 0.1), default=5.0, metavar="S", help="between looks [5]")
    group.add_argument("--timeout", type=_number(float, 1), default=None, metavar="S", help="longest time of one run")
    group.add_argument("--interpreter", default=sys.executable, metavar="PYTHON", help="the Python of the runs")
    group.add_argument("--logdir", type=Path, default=None, metavar="DIR", help="where the runs' output goes")


def _read_grid(options: argparse.Namespace) -> Grid:
    typed = {name: tuple(value) for name, value in vars(options).items() if isinstance(value, list)}
    if hasattr(options, "num_seeds"):
        if "seeds" in typed:
            raise UserError("--num_seeds and --seeds cannot be given together")
        typed["seeds"] = tuple(range(options.num_seeds))
    return change(find_grid(options.preset), typed)


def _where(options: argparse.Namespace, group: str) -> Where:
    root = data_root(options.data_root if hasattr(options, "data_root") else None)
    return Where(options.results_dir, options.group or group, root)


def launch(words: Sequence[str]) -> int:
    """Plan, show, ask, run, and write the table."""
    options, unknown = _launch_parser().parse_known_args(words)
    options.group = getattr(options, "group", None)
    where = _where(options, options.preset)
    plan = make_plan(_read_grid(options), read_extras(unknown), where)
    if options.json:
        print(json.dumps(describe(plan), indent=1))
        return COMPLETE
    summary = show_plan(plan, where)
    print(summary, flush=True)
    if options.dry_run:
        for job in plan.jobs:
            print(f"{job.state():9} python utils/main.py {' '.join(job.words)}")
        return COMPLETE
    if not options.yes and sys.stdin.isatty() and input("start? [Y/n] ").strip().casefold() not in ("", "y", "yes"):
        return MISTAKE
    return _run(plan, where, options)


def describe(plan: Plan) -> dict[str, Any]:
    """The plan for programs."""
    jobs = [
        {"name": job.name, "identity": job.identity, "state": job.state(), "command": ["utils/main.py", *job.words]}
        for job in plan.jobs
    ]
    return {"asked": plan.num_asked, "runs": len(jobs), "merged": plan.num_merged, "jobs": jobs}


def show_plan(plan: Plan, where: Where) -> str:
    """The plan in a few lines."""
    states = [job.state() for job in plan.jobs]
    counts = {state: states.count(state) for state in dict.fromkeys(states)}
    merged = f" ({plan.num_merged} of {plan.num_asked} are the same computation as another)" if plan.num_merged else ""
    lines = [f"{len(plan.jobs)} runs{merged}: " + ", ".join(f"{number} {state}" for state, number in counts.items())]
    axes = {"model": "methods", "dataset": "datasets", "nl": "norm layers", "seed": "seeds"}
    for option, title in axes.items():
        values = dict.fromkeys(str(job.config.values[option]) for job in plan.jobs)
        lines.append(f"  {title}: {' '.join(values)}")
    lines.append(f"  records: {where.results_dir / where.group}")
    return "\n".join(lines)


def _run(plan: Plan, where: Where, options: argparse.Namespace) -> int:
    from utils.launch.devices import Devices
    from utils.launch.engine import LocalEngine
    from utils.launch.scheduler import Limits, Outcome, Scheduler
    from utils.launch.view import View

    devices = Devices(
        usage_threshold=options.usage_threshold,
        runs_per_gpu=options.runs_per_gpu,
        jobs=getattr(options, "jobs", None),
        waitsecs=options.waitsecs,
    )
    print(f"  on {devices.describe()}", flush=True)
    view = View(where.group, devices.num_places)
    try:
        devices.say = view.say
        engine = LocalEngine(where, options.logdir or where.results_dir / where.group / "logs", options.interpreter)
        limits = Limits(timeout=options.timeout, waitsecs=options.waitsecs, coldsecs=options.coldsecs)
        scheduler = Scheduler(plan.jobs, devices, engine, limits, view)
        progress = scheduler.run()
    finally:
        view.close()
    print(f"{progress.count(Outcome.COMPLETE)} of {len(plan.jobs)} runs complete", flush=True)
    _write_table(where)
    if scheduler.stopped_by:
        return 128 + scheduler.stopped_by
    return COMPLETE if progress.count(Outcome.COMPLETE) == len(plan.jobs) else 1


def _write_table(where: Where) -> None:
    from utils.report import write_report

    for path in write_report(where.results_dir, where.group):
        if path.suffix == ".md":
            print(path.read_text(encoding="utf-8"))
        print(path)


def _group_parser(command: str, description: str) -> _Parser:
    parser = _Parser(prog=f"python run.py {command}", description=description, allow_abbrev=False)
    _add_places(parser)
    parser.add_argument("--preset", choices=tuple(GRIDS), default=DEFAULT_GRID)
    return parser


def table(words: Sequence[str]) -> int:
    """Write the table again from the records."""
    options = _group_parser("table", "Write the table again from the records, complete or not.").parse_args(words)
    _write_table(_where(options, options.preset))
    return COMPLETE


def status(words: Sequence[str]) -> int:
    """What the records of a group say, from another terminal."""
    from utils.launch.view import last_progress
    from utils.record import Record

    options = _group_parser("status", "What the records of a group say.").parse_args(words)
    folder = options.results_dir / (options.group or options.preset)
    if not folder.is_dir():
        raise UserError(f"there is no {folder}; name the group with --group")
    records = [Record(path.parent) for path in sorted(folder.glob("*/config.json"))]
    open_ones = [record for record in records if not record.complete]
    diverged = [record for record in open_ones if record.failure_path.exists()]
    print(
        f"{folder}: {len(records) - len(open_ones)} complete, {len(diverged)} diverged, "
        f"{len(open_ones) - len(diverged)} {STARTED}"
    )
    for record in open_ones:
        state = "diverged" if record in diverged else "running" if record.is_held() else STARTED
        print(f"  {state:9} {record.folder.name}  {last_progress(record)}")
    return COMPLETE


def data(words: Sequence[str]) -> int:
    """What was found of each dataset, and where to put what."""
    from utils.registry import DATASETS

    parser = _Parser(prog="python run.py data", description="What was found of each dataset, and where to put what.")
    parser.add_argument("--data_root", help="where the data lies ($CL_DATA_ROOT, else data)")
    root = data_root(parser.parse_args(words).data_root)
    for name in DATASETS.names():
        print(DATASETS.get(name)().describe(root))
    return COMPLETE
