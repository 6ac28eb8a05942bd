"""The command line of `run.py`. What is heavy is imported where it is used, so that `--help` answers at once."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from utils.errors import COMPLETE, MISTAKE, RunError, UserError
from utils.launch.arguments import Parser, add_places, number, places_of
from utils.launch.commands import data, status, table, write_table
from utils.launch.grid import DEFAULT_GRID, GRIDS, Grid, change, find_grid
from utils.launch.plan import Plan, Where, known_parts, make_plan, read_extras


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


def _launch_parser() -> Parser:
    parser = Parser(
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
    add_places(parser.add_argument_group("where"))
    _add_scheduling(parser.add_argument_group("how"))
    return parser


def _add_axes(group: Any) -> None:
    group.add_argument("--preset", choices=tuple(GRIDS), default=DEFAULT_GRID, help=f"named grid [{DEFAULT_GRID}]")
    group.add_argument("--num_seeds", type=number(int, 1), metavar="N", help="seeds 0 to N - 1")
    group.add_argument("--seeds", type=number(int, 0), nargs="*", metavar="SEED")
    group.add_argument("--datasets", nargs="*", metavar="NAME")
    group.add_argument("--models", nargs="*", metavar="NAME", help="methods, such as derpp er_ace")
    group.add_argument("--methods", nargs="*", metavar="NORM", help="norm layers, such as BN TBBN AdaB2N")
    group.add_argument("--buffer_sizes", type=number(int, 1), nargs="*", metavar="N")
    group.add_argument("--epochs", type=number(int, 1), nargs="*", metavar="N")
    group.add_argument("--kappa", type=number(float, 0), nargs="*", metavar="X", help="searched for AdaB2N")
    group.add_argument("--lambd", type=number(float, 0), nargs="*", metavar="X", help="searched for AdaB2N")
    group.add_argument("--ada_t0", type=number(int, 0), nargs="*", metavar="T", help="searched for AdaB2N")


def _add_scheduling(group: Any) -> None:
    group.add_argument("-y", "--yes", action="store_true", default=False, help="do not ask before starting")
    group.add_argument("--dry_run", action="store_true", default=False, help="print the plan and stop")
    group.add_argument("--json", action="store_true", default=False, help="print the plan for programs, and stop")
    group.add_argument("--jobs", type=number(int, 1), metavar="N", help="runs at a time without a GPU (the cores)")
    group.add_argument("--runs_per_gpu", default="auto", metavar="auto|N", help="runs that share a GPU [auto]")
    group.add_argument("--usage_threshold", type=number(float, 0), default=0.3, metavar="SHARE")
    group.add_argument("--coldsecs", type=number(float, 0), default=0.0, metavar="S", help="pause after a start [0]")
    group.add_argument("--waitsecs", type=number(float, 0.1), default=5.0, metavar="S", help="between looks [5]")
    group.add_argument("--timeout", type=number(float, 1), default=None, metavar="S", help="longest time of one run")
    group.add_argument("--interpreter", default=sys.executable, metavar="PYTHON", help="the Python of the runs")
    group.add_argument("--logdir", type=Path, default=None, metavar="DIR", help="where the runs' output goes")


def _read_grid(options: argparse.Namespace) -> Grid:
    typed = {name: tuple(value) for name, value in vars(options).items() if isinstance(value, list)}
    if hasattr(options, "num_seeds"):
        if "seeds" in typed:
            raise UserError("--num_seeds and --seeds cannot be given together")
        typed["seeds"] = tuple(range(options.num_seeds))
    return change(find_grid(options.preset), typed)


def launch(words: Sequence[str]) -> int:
    """Plan, show, ask, run, and write the table."""
    options, unknown = _launch_parser().parse_known_args(words)
    where = places_of(options)
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
    write_table(where)
    if scheduler.stopped_by:
        return 128 + scheduler.stopped_by
    return COMPLETE if progress.count(Outcome.COMPLETE) == len(plan.jobs) else 1
