"""The command line of `run.py`. What is heavy is imported where it is used, so that `--help` answers at once."""

import argparse
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from utils.errors import COMPLETE, MISTAKE, RunError, UserError
from utils.launch.arguments import Parser, add_places, number, places_of
from utils.launch.cells import known_parts, read_extras
from utils.launch.commands import compare, data, table, track_summary, write_table
from utils.launch.grid import DEFAULT_GRID, GRIDS, Grid, change, find_grid
from utils.launch.plan import Job, Plan, Where, make_plan
from utils.launch.status import status
from utils.report.select import ORACLE, SEARCH_SHARE, VALIDATION


def main(arguments: Sequence[str] | None = None) -> int:
    """Launch, or one of the other commands; the exit code is 0 only if everything asked for is complete."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    commands = {"status": status, "table": table, "compare": compare, "data": data}
    try:
        code = commands[words[0]](words[1:]) if words and words[0] in commands else launch(words)
        sys.stdout.flush()
        return code
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # who reads, such as `head`, has seen enough; at its end Python would complain once more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE


def _launch_parser() -> Parser:
    parser = Parser(
        prog="python run.py",
        usage="python run.py [status|table|compare|data] [--preset NAME] [options]",
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
    group.add_argument("--epochs", "--n_epochs", type=number(int, 1), nargs="*", metavar="N")
    group.add_argument("--kappa", type=number(float, 0), nargs="*", metavar="X", help="searched for AdaB2N")
    group.add_argument("--lambd", type=number(float, 0), nargs="*", metavar="X", help="searched for AdaB2N")
    group.add_argument("--ada_t0", type=number(int, 0), nargs="*", metavar="T", help="searched for AdaB2N")
    group.add_argument(
        "--selection",
        choices=(ORACLE, VALIDATION),
        help=f"settings are judged on the test data, or on {SEARCH_SHARE:.0%} of the training data, the best being run "
        "on all data afterwards [by the preset]".replace("%", "%%"),
    )
    group.add_argument(
        "--search_seeds",
        type=number(int, 0),
        nargs="*",
        metavar="SEED",
        help="seeds on which all settings are run, whether or not they are among the others, which are left to the "
        "best setting [all seeds]",
    )


def _add_scheduling(group: Any) -> None:
    group.add_argument("-y", "--yes", action="store_true", default=False, help="do not ask before starting")
    group.add_argument("--dry_run", action="store_true", default=False, help="print the plan and stop")
    group.add_argument("--json", action="store_true", default=False, help="print the plan for programs, and stop")
    group.add_argument("--jobs", type=number(int, 1), metavar="N", help="runs at a time without a GPU (the cores)")
    group.add_argument("--threads", type=number(int, 1), default=1, metavar="N", help="threads of each run [1]")
    group.add_argument("--runs_per_gpu", default="auto", metavar="auto|N", help="runs that share a GPU [auto]")
    group.add_argument("--usage_threshold", type=number(float, 0), default=0.3, metavar="SHARE")
    group.add_argument("--coldsecs", type=number(float, 0), default=0.0, metavar="S", help="pause after a start [0]")
    group.add_argument("--waitsecs", type=number(float, 0.1), default=5.0, metavar="S", help="between looks [5]")
    group.add_argument("--timeout", type=number(float, 1), default=None, metavar="S", help="longest time of one start")
    group.add_argument("--interpreter", default=sys.executable, metavar="PYTHON", help="the Python of the runs")
    group.add_argument("--logdir", type=Path, default=None, metavar="DIR", help="where the runs' output goes")


def _read_grid(options: argparse.Namespace) -> Grid:
    typed = {name: tuple(value) for name, value in vars(options).items() if isinstance(value, list)}
    if hasattr(options, "num_seeds"):
        if "seeds" in typed:
            raise UserError("--num_seeds and --seeds cannot be given together")
        typed["seeds"] = tuple(range(options.num_seeds))
    if hasattr(options, "selection"):
        typed["selection"] = options.selection
    return change(find_grid(options.preset), typed)


def launch(words: Sequence[str]) -> int:
    """Plan, show, ask, run, and write the table."""
    options, unknown = _launch_parser().parse_known_args(words)
    where = places_of(options)
    plan = make_plan(_read_grid(options), read_extras(unknown), where)
    from utils.launch.estimates import Estimates
    from utils.launch.summary import Summary

    devices = _devices(options)
    estimates = Estimates(where.results_dir, devices.kinds, devices.threads)
    summary = Summary(plan, where, lambda job: estimates.seconds(job.config), devices.num_places)
    if options.json:
        print(json.dumps(summary.for_programs(), indent=1))
        return COMPLETE
    print(*summary.lines(), f"  on {devices.describe()}", sep="\n", flush=True)
    if options.dry_run:
        print(*summary.commands(), sep="\n")
        return COMPLETE
    if not options.yes and sys.stdin.isatty() and input("start? [Y/n] ").strip().casefold() not in ("", "y", "yes"):
        return MISTAKE
    return _run(plan, summary.jobs, where, devices, estimates, options)


def _devices(options: argparse.Namespace) -> Any:
    from utils.launch.devices import Devices

    return Devices(
        usage_threshold=options.usage_threshold,
        runs_per_gpu=options.runs_per_gpu,
        jobs=getattr(options, "jobs", None),
        threads=options.threads,
        waitsecs=options.waitsecs,
        say=lambda text: print(text, file=sys.stderr, flush=True),  # the plan for programs is on the other one
    )


def _run(
    plan: Plan, jobs: tuple[Job, ...], where: Where, devices: Any, estimates: Any, options: argparse.Namespace
) -> int:
    from utils.launch.bookkeeper import Bookkeeper
    from utils.launch.engine import LocalEngine
    from utils.launch.scheduler import Limits, Outcome, Scheduler
    from utils.launch.search import Following
    from utils.launch.view import View

    view = View(where.group, lambda job: estimates.seconds(job.config))
    try:
        devices.say = view.say
        engine = LocalEngine(where, options.logdir or where.results_dir / where.group / "logs", options.interpreter)
        limits = Limits(timeout=options.timeout, waitsecs=options.waitsecs, coldsecs=options.coldsecs)
        scheduler = Scheduler(
            jobs,
            devices,
            engine,
            limits,
            view,
            Bookkeeper(where, view.say),
            estimate=lambda job: estimates.memory_mb(job.config),
            follow=Following(plan.searches, view.say).after,
        )
        progress = scheduler.run()
    finally:
        view.close()
    print(f"{progress.count(Outcome.COMPLETE)} of {progress.num_jobs} runs complete", flush=True)
    write_table(where)
    if scheduler.stopped_by:
        return 128 + scheduler.stopped_by
    track_summary(where, plan.jobs[0].config)
    return COMPLETE if progress.count(Outcome.COMPLETE) == progress.num_jobs else 1
