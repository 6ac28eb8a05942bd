"""The command line of `run.py`. What is heavy is imported where it is used, so that `--help` answers at once."""

import argparse
import difflib
import json
import signal
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from utils.config.command_line import Parser, make_parser
from utils.config.options import Option, flag, grouped, ranged
from utils.errors import COMPLETE, DISK, MISTAKE, RunError, UserError, is_disk_error
from utils.launch.arguments import PLACES, PRESET, places_of
from utils.launch.cells import group_of, known_parts, read_extras
from utils.launch.commands import compare, data, table, track_summary, write_table
from utils.launch.grid import Grid, change, find_grid
from utils.launch.output import discard_output, show
from utils.launch.plan import Job, Plan, Where, make_plan
from utils.launch.presence import cancel
from utils.launch.status import status
from utils.machine import default_threads, print_any_text
from utils.records.record import FORMER
from utils.records.selection import ORACLE, SEARCH_SHARE, VALIDATION


def main(arguments: Sequence[str] | None = None) -> int:
    """Launch, or one of the other commands; the exit code is 0 only if everything asked for has its answer."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    print_any_text()
    warnings.formatwarning = lambda message, *where, **more: f"note: {message}\n"
    commands = {"status": status, "table": table, "compare": compare, "data": data, "cancel": cancel}
    try:
        is_command = bool(words) and not words[0].startswith("-")
        code = _find_command(words[0], commands)(words[1:]) if is_command else launch(words)
        print(end="", flush=True)
        return code
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # who reads, such as `head`, has seen enough; at its end Python would complain once more
        discard_output()
        return 128 + signal.SIGPIPE
    except OSError as error:
        if not is_disk_error(error):
            raise
        discard_output()
        print(f"error: {error.filename or 'standard output'}: {error.strerror}", file=sys.stderr)
        return DISK


def _find_command(name: str, commands: Mapping[str, Callable[[Sequence[str]], int]]) -> Callable[[Sequence[str]], int]:
    """The command of that name. Raises UserError, with a suggestion, if there is none."""
    if name in commands:
        return commands[name]
    close = difflib.get_close_matches(name, commands, n=1)
    hint = f" Did you mean {close[0]}?" if close else ""
    raise UserError(f"unknown command {name!r}.{hint} Known: {', '.join(commands)}; without one, a grid is run.")


_BY_PRESET = "by the preset"

WHAT = grouped(
    "what to run",
    PRESET,
    Option("num_seeds", ranged(int, 1), None, "seeds 0 to N - 1", source=_BY_PRESET),
    Option("seeds", ranged(int, 0), None, "these seeds", source=_BY_PRESET, many=True),
    Option("datasets", str, None, "such as seq-cifar10 seq-digits", source=_BY_PRESET, many=True),
    Option("models", str, None, "methods, such as derpp er_ace", source=_BY_PRESET, many=True),
    Option("methods", str, None, "norm layers, such as BN AdaB2N", source=_BY_PRESET, many=True),
    Option(
        "buffer_size",
        ranged(int, 1),
        None,
        "images in memory, on every dataset",
        source="by the preset and dataset",
        aliases=("buffer_sizes",),
        many=True,
    ),
    Option(
        "epochs",
        ranged(int, 1),
        None,
        "epochs per task",
        source="by the preset; without one, 1 for online methods, by protocol and dataset for others",
        aliases=("n_epochs",),
        many=True,
    ),
    Option(
        "search",
        str,
        None,
        "options with several values of which each layer takes its best; of others each value is a column",
        source=_BY_PRESET,
        many=True,
        flag=(),
    ),
    Option(
        "selection",
        str,
        None,
        f"settings are judged on the test data, or on {SEARCH_SHARE:.0%} of the training data, the best being run on "
        "all data afterwards",
        source=_BY_PRESET,
        choices=(ORACLE, VALIDATION),
    ),
    Option(
        "search_seeds",
        ranged(int, 0),
        None,
        "seeds on which all settings are run, whether or not they are among the others, which are left to the best "
        "setting",
        source="all seeds",
        many=True,
    ),
)

HOW = grouped(
    "how",
    flag("yes", "start without asking", aliases=("y",)),
    flag("dry_run", "print the plan and stop"),
    flag("rerun", "set the records of this plan aside and run all of it anew"),
    flag("keep_models", "keep the trained weights of complete runs, model.pt in each record"),
    flag("json", "print the plan for programs and stop"),
    Option("jobs", ranged(int, 1), None, "runs at a time in all", source="as the cores allow"),
    Option("threads", ranged(int, 1), None, "threads of each run", source="$OMP_NUM_THREADS, else 1"),
    Option("runs_per_gpu", str, "auto", "runs that share a GPU: auto, or their number"),
    Option(
        "usage_threshold",
        ranged(float, 0),
        0.3,
        "a GPU is idle while others use less than this share of its memory and of its time",
    ),
    Option("coldsecs", ranged(float, 0), 0.0, "pause after a start, in seconds"),
    Option("waitsecs", ranged(float, 0.1), 5.0, "time between looks at the devices, in seconds"),
    Option("timeout", ranged(float, 1), None, "time limit of one start of a run, in seconds", source="none"),
    Option("interpreter", str, sys.executable, "Python of the runs"),
    Option("logdir", Path, None, "where the runs' output goes", source="logs, beside the records"),
)
LAUNCH_OPTIONS = (*WHAT, *PLACES, *HOW)


def _launch_parser() -> Parser:
    return make_parser(
        LAUNCH_OPTIONS,
        prog="python run.py",
        usage="python run.py [status|table|compare|data|cancel] [--preset NAME] [options]",
        description="Plan a grid of runs, run it on whatever is idle, and end with the table.",
        epilog="Every option of utils/main.py may be given too, and several values make an axis; each run takes "
        "those that its parts use.\n"
        + "\n".join(f"{axis}: {', '.join(names)}" for axis, names in known_parts().items()),
    )


def _read_grid(options: argparse.Namespace, words: Sequence[str]) -> Grid:
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


def launch(words: Sequence[str]) -> int:
    """Plan, show, ask, run, and write the table."""
    options, unknown = _launch_parser().parse_known_args(words)
    grid, extras = _read_grid(options, words), read_extras(unknown)
    options.group = options.group or group_of(options.preset, grid, extras)
    options.threads = options.threads or default_threads()
    where = replace(places_of(options), threads=options.threads, keeps_models=options.keep_models)
    launcher_options = [spelling for option in LAUNCH_OPTIONS for spelling in option.spellings]
    plan = make_plan(grid, extras, where, launcher_options)
    if plan.missing_data and not (options.dry_run or options.json):
        num_missing = len(plan.missing_data)
        heading = [f"{num_missing} datasets cannot be read:"] if num_missing > 1 else []
        raise UserError("\n  ".join([*heading, *plan.missing_data]))
    from utils.launch.estimates import Estimates
    from utils.launch.summary import Summary

    devices = _devices(options)
    estimates = Estimates(where.results_dir, devices.kinds, devices.threads)
    summary = Summary(plan, where, estimates, devices.num_places)
    if options.json:
        print(json.dumps(summary.for_programs(), indent=1))
        return COMPLETE
    show([*summary.lines(), f"  on {devices.describe()}"])
    if options.dry_run:
        print(*summary.commands(), sep="\n")
        return COMPLETE
    has_work = options.rerun or not summary.is_over
    is_on_terminal = sys.stdin is not None and sys.stdin.isatty()
    if has_work and is_on_terminal and not options.yes and not _is_confirmed():
        return MISTAKE
    if options.rerun:
        set_aside(summary.jobs)
        summary = Summary(plan, where, estimates, devices.num_places)
    return _run(plan, summary, where, devices, estimates, options)


def set_aside(jobs: Iterable[Job]) -> None:
    """Rename the records of runs that are to be made anew.

    Raises:
        UserError: a process is at one of them.
    """
    records = [job.record for job in jobs if job.record.folder.exists()]
    for record in records:
        if record.is_held():
            raise UserError(f"--rerun: a process is at {record.folder}; stop it, or wait for it")
    for record in records:
        record.set_aside(FORMER)
    if records:
        print(f"{len(records)} records are set aside as …{FORMER}1 and so on", flush=True)


def _is_confirmed() -> bool:
    try:
        return input("start? [Y/n] ").strip().casefold() in ("", "y", "yes")
    except EOFError:
        print()
        return False


def _devices(options: argparse.Namespace) -> Any:
    from utils.launch.devices import Devices

    return Devices(
        usage_threshold=options.usage_threshold,
        runs_per_gpu=options.runs_per_gpu,
        jobs=options.jobs,
        interpreter=options.interpreter,
        threads=options.threads,
        waitsecs=options.waitsecs,
        say=lambda text: print(text, file=sys.stderr, flush=True),  # the plan for programs is on the other one
    )


def _run(plan: Plan, summary: Any, where: Where, devices: Any, estimates: Any, options: argparse.Namespace) -> int:
    from utils.launch.engine import LocalEngine
    from utils.launch.presence import present
    from utils.launch.remaining import Remaining, sources_of
    from utils.launch.scheduler import Bookkeeper, Limits, Scheduler
    from utils.launch.search import Following
    from utils.launch.view import View

    view = View(where.group, Remaining(sources_of(estimates)))
    try:
        devices.say = view.say
        following = Following(plan.searches, view.say)
        view.num_following = lambda: following.num_expected(summary.chosen)
        engine = LocalEngine(where, options.logdir or where.results_dir / where.group / "logs", options.interpreter)
        limits = Limits(timeout=options.timeout, waitsecs=options.waitsecs, coldsecs=options.coldsecs)
        scheduler = Scheduler(
            summary.jobs,
            devices,
            engine,
            limits,
            view,
            Bookkeeper(where, view.say, plan.seeds, plan.axes),
            estimate=estimates.memory_mb,
            follow=following.after,
        )
        with present(where.results_dir / where.group):
            progress = scheduler.run()
    finally:
        view.close()
    show(view.closing_lines(progress, scheduler.stopped_by is not None))
    report, failure = write_table(where)
    has_answers = sum(outcome.is_answer for outcome, _ in progress.outcomes.values()) == progress.num_jobs
    if scheduler.stopped_by and not has_answers:
        return 128 + scheduler.stopped_by
    track_summary(report, plan.jobs[0].config)
    if failure:
        raise failure
    return COMPLETE if has_answers else 1
