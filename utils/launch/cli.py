"""The command line of `run.py`: a grid is launched, or one of the other commands is carried out.

What is heavy is imported where it is used, so that `--help` and the commands on records, which need no torch, answer at
once.
"""

import argparse
import errno
import json
import signal
import sys
import warnings
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils import slurm
from utils.config.checks import check_arithmetic, check_capture
from utils.config.command_line import make_parser
from utils.config.configuration import data_root
from utils.config.options import Option, flag, grouped
from utils.config.registry import DATASETS, find_name, load_plugins, unknown
from utils.errors import (
    COMPLETE,
    DISK,
    INCOMPLETE,
    MISTAKE,
    DiskError,
    RunError,
    UserError,
    check_installed,
    explain_missing,
    is_disk_error,
)
from utils.launch.arguments import (
    DATA_ROOT,
    LAUNCH_OPTIONS,
    RESULTS_DIR,
    SLURM,
    check_engine,
    group_of,
    group_parser,
    launch_parser,
    read_grid,
)
from utils.launch.grid import default_group, read_extras
from utils.launch.job import CommonOptions, Job
from utils.launch.plan import FollowUps, make_plan
from utils.launch.presence import cancel
from utils.launch.slurm_job import slurm_job
from utils.launch.status import status
from utils.machine import default_mps_percent, default_threads, discard_output, prepare_streams
from utils.records.record import FORMER

if TYPE_CHECKING:
    from utils.launch.cluster import Cluster
    from utils.launch.devices import Devices
    from utils.launch.scheduler import Scheduler
    from utils.launch.summary import PlanSummary
    from utils.launch.view import View


def _plugin(parts: str) -> Option:
    return Option("plugin", str, None, f"Python file that adds {parts}", source="none", many=True, metavar="FILE")


_COMPARED = (
    Option(
        "groups", str, None, "folders inside --results_dir", group="what", many=True, positional=True, metavar="GROUP"
    ),
    Option(
        "metric",
        str,
        "A_f",
        "metric by its name in the records, such as A_a or forgetting",
        group="what",
        metavar="NAME",
    ),
    *grouped("what", _plugin("metrics")),
    RESULTS_DIR,
)
_SCENARIOS = ("class_il", "task_il", "both")
_SHOWN = grouped(
    "what is shown",
    Option("metric", str, "A_f", "metric of the main table, such as A_a or forgetting", metavar="NAME"),
    _plugin("metrics"),
    Option(
        "scenario",
        lambda text: find_name(text, _SCENARIOS) or text,
        "both",
        "Class-IL, Task-IL or both",
        choices=_SCENARIOS,
    ),
    Option("datasets", str, None, "only these datasets", source="all", many=True, metavar="DATASET"),
    Option("models", str, None, "only these methods", source="all", many=True, metavar="METHOD"),
    Option("methods", str, None, "only these norm layers", source="all", many=True, metavar="LAYER"),
    Option(
        "names",
        Path,
        None,
        "JSON or CSV file of the names to show",
        source="as papers write them, in table.tex and plots",
        metavar="FILE",
    ),
    flag("cost", "show what training cost, beside the accuracies"),
)
_DATA = (
    DATA_ROOT,
    *grouped(
        "where",
        Option(
            "download",
            str,
            None,
            "fetch these datasets, such as cifar10",
            source="none",
            many=True,
            metavar="DATASET",
        ),
        _plugin("datasets"),
    ),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Launch a grid, or carry out another command; the exit code is 0 only if nothing that was asked for is missing."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    prepare_streams()
    warnings.formatwarning = lambda message, *where, **more: f"note: {message}\n"
    try:
        code = _carry_out(words)
        print(end="", flush=True)
        return code
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except ModuleNotFoundError as error:
        if not (reason := explain_missing(error)):
            raise
        print(f"error: {reason}", file=sys.stderr)
        return MISTAKE
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader, such as `head`, is gone; otherwise Python would complain again at exit
        discard_output()
        return 128 + signal.SIGPIPE
    except OSError as error:
        if not is_disk_error(error):
            raise
        discard_output()
        print(f"error: {error.filename or 'standard output'}: {error.strerror}", file=sys.stderr)
        return DISK


def _carry_out(words: Sequence[str]) -> int:
    """Carry out the command that the first word names, or launch a grid if it names none; gives the exit code.

    Raises:
        UserError: there is no such command; with a suggestion.
    """
    if not words or words[0].startswith("-"):
        return launch(words)
    commands: dict[str, Callable[[Sequence[str]], int]] = {
        "status": status,
        "table": table,
        "compare": compare,
        "data": data,
        "cancel": cancel,
        "slurm-job": slurm_job,
    }
    if words[0] not in commands:
        raise UserError(f"{unknown('command', words[0], commands)} Without one, a grid is run.")
    return commands[words[0]](words[1:])


def launch(words: Sequence[str]) -> int:
    """Plan a grid and show the plan; then run it and write the table, unless the plan alone was asked for."""
    options, others = launch_parser().parse_known_args(words)
    check_engine(options)
    grid, extras = read_grid(options, words), read_extras(others)
    common = CommonOptions(
        options.results_dir,
        default_group(options.preset, grid, extras) if options.group is None else options.group,
        data_root(options.data_root),
        options.threads or default_threads(),
        options.mps_percent,
        options.keep_models,
    )
    plan = make_plan(grid, extras, common, [spelling for option in LAUNCH_OPTIONS for spelling in option.spellings])
    if plan.missing_data and not (options.dry_run or options.json):
        num_missing = len(plan.missing_data)
        heading = [f"{num_missing} datasets cannot be read:"] if num_missing > 1 else []
        raise UserError("\n  ".join([*heading, *plan.missing_data]))
    from utils.launch.estimates import Estimates
    from utils.launch.summary import PlanSummary
    from utils.launch.view import show

    site: Cluster | Devices
    percent = common.mps_percent
    if options.engine == SLURM:
        site = _cluster(options, common)
    else:
        site = _devices(options, common, len(plan.jobs))
        common = common.on(site.mps_percent)
        percent = None if site.undivided else common.mps_percent
        if options.mps_percent is not None and site.undivided:
            site.say(f"--mps_percent has no effect: {site.undivided}")
    estimates = Estimates(common.results_dir, site.kinds, site.threads)
    summary = PlanSummary(plan, common, estimates, site.num_slots, site.shares_gpus)
    if options.json:
        print(json.dumps(summary.as_json(), indent=1))
        return COMPLETE
    share = "" if percent is None else f", each with {percent:g} % of the multiprocessors"
    show([*summary.lines(options.rerun), f"  on {site.describe()}{share}"])
    if options.dry_run:
        print(*summary.commands(), sep="\n")
        return COMPLETE
    return _start(summary, site, options)


def _check_runs(jobs: Collection[Job], device_type: str) -> None:
    """Raises UserError if this machine cannot do one of the runs; what a GPU can is known to the runs alone."""
    if any(job.config.mps_percent is None for job in jobs):
        default_mps_percent()
    for word, precision, fast in {(job.config.cuda_graph, job.config.precision, job.config.fast) for job in jobs}:
        check_capture(word, None, device_type)
        check_arithmetic(device_type, precision, fast)


def _start(summary: "PlanSummary", site: "Devices | Cluster", options: argparse.Namespace) -> int:
    """Run a plan that was shown, if the user agrees; gives the exit code."""
    from utils.launch.summary import PlanSummary

    check_installed()  # rather than fail at the table, when all is over
    if options.engine == SLURM:
        slurm.check()
    else:
        to_do = [job for job in summary.jobs if options.rerun or not job.state().is_answer]
        _check_runs(to_do, "cpu" if site.kinds == {"cpu"} else "cuda")
    if (options.rerun or not summary.is_over) and not (options.yes or _is_confirmed()):
        print("nothing is started")
        return INCOMPLETE
    if options.rerun:
        set_aside(summary.jobs)
        summary = PlanSummary(summary.plan, summary.common, summary.estimates, site.num_slots, site.shares_gpus)
    return _run(summary, site, options)


def _log_dir(options: argparse.Namespace, common: CommonOptions) -> Path:
    """Where the output of the runs goes."""
    return options.logdir or common.folder / "logs"


def _cluster(options: argparse.Namespace, common: CommonOptions) -> "Cluster":
    from utils.launch.cluster import make_cluster

    return make_cluster(options, common.threads or 1, _log_dir(options, common))


def _devices(options: argparse.Namespace, common: CommonOptions, num_runs: int) -> "Devices":
    from utils.launch.devices import Devices
    from utils.launch.local import check_interpreter

    check_interpreter(options.interpreter)
    return Devices(
        usage_threshold=options.usage_threshold,
        runs_per_gpu=options.runs_per_gpu,
        jobs=options.jobs,
        interpreter=options.interpreter,
        threads=common.threads or 1,
        num_runs=num_runs,
        waitsecs=options.waitsecs,
        say=lambda text: print(text, file=sys.stderr, flush=True),  # standard output is the plan's, which may be JSON
    )


def _is_confirmed() -> bool:
    """Whether the user starts the plan; without a terminal nobody is asked, and it starts."""
    if not sys.stdin.isatty():
        return True
    answers = {"": True, "y": True, "yes": True, "n": False, "no": False}
    try:
        while (answer := input("start? [Y/n] ").strip().casefold()) not in answers:
            print(f"{answer!r} is neither yes nor no")
    except EOFError:
        print()
        return False
    return answers[answer]


def set_aside(jobs: Iterable[Job]) -> None:
    """Rename the records of runs that are to be run again.

    Raises:
        UserError: a process is running one of them.
    """
    records = [job.record for job in jobs if job.record.folder.exists()]
    for record in records:
        if record.is_held():
            raise UserError(f"--rerun: a process is running {record.folder}; stop it, or wait for it")
    for record in records:
        record.set_aside(FORMER)
    if records:
        print(f"set aside {len(records)} records, as …{FORMER}1 and so on", flush=True)


def _run(summary: "PlanSummary", site: "Devices | Cluster", options: argparse.Namespace) -> int:
    """Run the plan and write the table; gives the exit code."""
    from utils.launch.estimates import Remaining
    from utils.launch.presence import present
    from utils.launch.view import View, show
    from utils.report.wandb_summary import send_summary

    common = summary.common
    view = View(common.group, Remaining(summary.estimates))
    try:
        scheduler = _scheduler(summary, site, view, options)
        with present(common.folder):
            progress = scheduler.run(waits=not options.no_wait)
    finally:
        view.close()
    show(view.closing_lines(progress, scheduler.stopped_by is not None))
    if options.no_wait and progress.under_way:
        return COMPLETE
    report, failure = write_table(common.results_dir, common.group)
    has_answers = sum(outcome.is_answer for outcome, _ in progress.outcomes.values()) == progress.num_jobs
    if scheduler.stopped_by and not has_answers:
        return 128 + scheduler.stopped_by
    send_summary(report, summary.jobs[0].config, lambda line: print(line, flush=True))
    if failure:
        raise failure
    if has_answers:
        return COMPLETE
    return DISK if progress.is_disk_at_fault else INCOMPLETE


def _scheduler(
    summary: "PlanSummary", site: "Devices | Cluster", view: "View", options: argparse.Namespace
) -> "Scheduler":
    from utils.launch.devices import Devices
    from utils.launch.engine import Engine, Limits
    from utils.launch.local import LocalEngine
    from utils.launch.scheduler import Bookkeeper, Scheduler
    from utils.launch.slurm import SlurmEngine

    plan, common = summary.plan, summary.common
    follow_ups = FollowUps(plan.searches, view.say)
    view.num_following = lambda: follow_ups.num_expected(summary.chosen)
    if isinstance(site, Devices):
        site.say = view.say
        limits = Limits(timeout=options.timeout, waitsecs=options.waitsecs, coldsecs=options.coldsecs)
        log_dir = _log_dir(options, common)
        engine: Engine = LocalEngine(common, log_dir, site, limits, summary.estimates.memory_mb)
    else:
        limits, engine = Limits(waitsecs=options.waitsecs), SlurmEngine(common, site, plan.axes, view.say)
    books = Bookkeeper(common, view.say, plan.seeds, plan.axes)
    return Scheduler(summary.jobs, engine, limits, view, books, follow_ups.after)


def write_table(results_dir: Path, group: str, shown: Any = None) -> tuple[Any, DiskError | None]:
    """Write the report of a group from its records, and show its table, whether or not all could be written.

    The table is shown when its own files are written, before the page and the plots are drawn.

    Returns:
        The report; why some of it is not on the disk, None if all of it is.
    """
    from utils.report import Report, show, write_page, write_tables

    report = Report(results_dir, group, shown)
    written: list[Path] = []
    failure = _write(written, write_tables(report))
    try:
        show(report)
    finally:  # also where the reader of the screen has gone
        failure = failure or _write(written, write_page(report))
    names = [path for path in written if path.parent == report.folder]
    plots = [path for path in written if path.parent != report.folder]
    print(*names, *([f"{plots[0].parent} ({len(plots)} files)"] if plots else []), sep="\n", flush=True)
    return report, failure


def _write(written: list[Path], paths: Iterable[Path]) -> DiskError | None:
    """Add the path of every file once it is written. Returns why some were not, None if all were."""
    try:
        written += paths  # those before a failure are kept
    except DiskError as error:
        return error
    return None


def _exit_code(failure: DiskError | None) -> int:
    """The exit code of a command that has shown what it may have failed to write.

    Where writing is not permitted, as it may be on purpose, a line says so; a full or broken disk is an error.
    """
    if failure is None:
        return COMPLETE
    cause = failure.__cause__
    if not (isinstance(cause, OSError) and cause.errno in (errno.EROFS, errno.EACCES, errno.EPERM)):
        raise failure
    print(f"note: {failure}", file=sys.stderr)
    return COMPLETE


def table(words: Sequence[str]) -> int:
    """Write the table again from the records."""
    description = "Write the table again from the records, complete or not."
    options = group_parser("table", description, _SHOWN).parse_args(words)
    from utils.report.report import ReportOptions

    load_plugins(options.plugin)
    scenarios = ("class_il", "task_il") if options.scenario == "both" else (options.scenario,)
    datasets, models, methods = (tuple(chosen or ()) for chosen in (options.datasets, options.models, options.methods))
    shown = ReportOptions(options.metric, scenarios, datasets, models, methods, options.names, options.cost)
    _, failure = write_table(options.results_dir, group_of(options), shown)
    return _exit_code(failure)


def compare(words: Sequence[str]) -> int:
    """Set groups side by side, or one beside the published figures."""
    from utils.report import make_comparison, write_text

    description = "Set groups side by side, or one group beside the published figures, and say what differs."
    options = make_parser(_COMPARED, prog="python run.py compare", description=description).parse_args(words)
    load_plugins(options.plugin)
    text, path = make_comparison(options.results_dir, options.groups, options.metric)
    failure = None
    try:
        write_text(path, text)
    except DiskError as error:
        failure = error
    print(text, *([] if failure else [path]), sep="\n", flush=True)
    return _exit_code(failure)


def data(words: Sequence[str]) -> int:
    """Say what was found of each dataset, and where to put what; or fetch those that are named."""
    description = (
        "Show what is found of each dataset and where to put it, or fetch datasets from their official source."
    )
    options = make_parser(_DATA, prog="python run.py data", description=description).parse_args(words)
    load_plugins(options.plugin)
    root = data_root(options.data_root)
    known = {name: DATASETS.get(name) for name in DATASETS.names()}
    folders = {dataset.folder: name for name, dataset in known.items() if dataset.folder}
    chosen = dict.fromkeys(folders.get(name) or DATASETS.known_name(name) for name in options.download or ())
    for name in chosen:
        dataset = known[name]()
        dataset.download(root)
        print(dataset.describe(root), flush=True)
    if not chosen:
        print(*(dataset().describe(root) for dataset in known.values()), sep="\n")
        sources = [dataset.folder for dataset in known.values() if dataset.has_source()]
        print(f"with an official source (--download): {' '.join(sources)}")
    return COMPLETE
