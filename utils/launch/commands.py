"""The commands of `run.py` on records and data: `table`, `compare`, `data`. None imports torch."""

import errno
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from utils.config.command_line import make_parser
from utils.config.configuration import data_root
from utils.config.options import Option, grouped
from utils.config.registry import DATASETS, load_plugin
from utils.errors import COMPLETE, DiskError
from utils.launch.arguments import DATA_ROOT, RESULTS_DIR, group_parser, places_of
from utils.launch.plan import Where

_PLUGIN = Option("plugin", str, None, "Python file that adds metrics; may be repeated", source="none", many=True)
_COMPARED = (
    Option(
        "groups", str, None, "folders inside --results_dir", group="what", many=True, positional=True, metavar="GROUP"
    ),
    Option("metric", str, "A_f", "its name in the records, such as A_a or forgetting", group="what"),
    *grouped("what", _PLUGIN),
    RESULTS_DIR,
)
_SHOWN = (
    Option("metric", str, "A_f", "of the main table, such as A_a or forgetting", group="what is shown"),
    *grouped("what is shown", _PLUGIN),
    Option("scenario", str, "both", "or one", choices=("class_il", "task_il", "both"), group="what is shown"),
    Option("datasets", str, None, "only these", source="all", group="what is shown", many=True),
    Option("models", str, None, "only these methods", source="all", group="what is shown", many=True),
    Option("methods", str, None, "only these norm layers", source="all", group="what is shown", many=True),
    Option(
        "names",
        Path,
        None,
        "JSON or CSV file of names that readers see",
        source="as papers write them, in table.tex and plots",
        group="what is shown",
    ),
)
_DATA = (
    DATA_ROOT,
    Option("download", str, None, "fetch these, such as cifar10", source="none", group="where", many=True),
)


def write_table(where: Where, view: Any = None) -> tuple[Any, DiskError | None]:
    """Write the report of a group from its records, and show its table, whether or not all could be written.

    The table is shown when its own files are written, before the page and the plots are drawn.

    Returns:
        The report, for what else is made of it; why some of it is not on the disk, None if all of it is.
    """
    from utils.report import Report, show, write_page, write_tables

    report = Report(where.results_dir, where.group, view)
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
    """Note every file as it is written; why some are not, None if all are."""
    try:
        written += paths  # as far as it goes
    except DiskError as error:
        return error
    return None


def tell_unwritten(failure: DiskError | None) -> int:
    """The exit code of a command that has shown what it may have failed to write.

    Where nothing may be written, which is meant, a line says so; a full or broken disk is an error.
    """
    if failure is None:
        return COMPLETE
    cause = failure.__cause__
    if not (isinstance(cause, OSError) and cause.errno in (errno.EROFS, errno.EACCES, errno.EPERM)):
        raise failure
    print(f"note: {failure}", file=sys.stderr)
    return COMPLETE


def track_summary(report: Any, tracking: Any) -> None:
    """Send the tables and plots of a report where the runs of this configuration are tracked, if they are."""
    from utils.report.wandb_summary import send_summary

    send_summary(report, tracking, lambda line: print(line, flush=True))


def table(words: Sequence[str]) -> int:
    """Write the table again from the records."""
    description = "Write the table again from the records, complete or not."
    options = group_parser("table", description, _SHOWN).parse_args(words)
    from utils.report.report import View

    for path in options.plugin or ():
        load_plugin(path)
    scenarios = ("class_il", "task_il") if options.scenario == "both" else (options.scenario,)
    datasets, models, methods = (tuple(chosen or ()) for chosen in (options.datasets, options.models, options.methods))
    view = View(options.metric, scenarios, datasets, models, methods, options.names)
    _, failure = write_table(places_of(options), view)
    return tell_unwritten(failure)


def compare(words: Sequence[str]) -> int:
    """Groups side by side, or one beside the published figures."""
    from utils.report import make_comparison, write_text

    description = "Set groups side by side, or one group beside the published figures, and say what differs."
    options = make_parser(_COMPARED, prog="python run.py compare", description=description).parse_args(words)
    for each in options.plugin or ():
        load_plugin(each)
    text, path = make_comparison(options.results_dir, options.groups, options.metric)
    failure = None
    try:
        write_text(path, text)
    except DiskError as error:
        failure = error
    print(text, *([] if failure else [path]), sep="\n", flush=True)
    return tell_unwritten(failure)


def data(words: Sequence[str]) -> int:
    """What was found of each dataset, and where to put what; fetches those that are named."""
    description = "What was found of each dataset, and where to put what; or fetch datasets from their official source."
    options = make_parser(_DATA, prog="python run.py data", description=description).parse_args(words)
    root = data_root(options.data_root)
    known = {name: DATASETS.get(name) for name in DATASETS.names()}
    folders = {dataset.folder: name for name, dataset in known.items() if dataset.folder}
    chosen = dict.fromkeys(folders.get(name) or DATASETS.canonical(name) for name in options.download or ())
    for name in chosen:
        dataset = known[name]()
        dataset.download(root)
        print(dataset.describe(root), flush=True)
    if not chosen:
        print(*(dataset().describe(root) for dataset in known.values()), sep="\n")
        sources = [dataset.folder for dataset in known.values() if dataset.has_source()]
        print(f"with an official source (--download): {' '.join(sources)}")
    return COMPLETE
