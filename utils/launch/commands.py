"""The commands of `run.py` beside the launcher itself: `status`, `table`, `data`. None of them imports torch."""

from collections.abc import Sequence

from utils.configuration import data_root
from utils.errors import COMPLETE, UserError
from utils.launch.arguments import Parser, group_parser, places_of
from utils.launch.plan import STARTED, Where


def write_table(where: Where) -> None:
    """Write the report of a group from its records, and show the table."""
    from utils.report import write_report

    for path in write_report(where.results_dir, where.group):
        if path.suffix == ".md":
            print(path.read_text(encoding="utf-8"))
        print(path)


def table(words: Sequence[str]) -> int:
    """Write the table again from the records."""
    options = group_parser("table", "Write the table again from the records, complete or not.").parse_args(words)
    write_table(places_of(options))
    return COMPLETE


def status(words: Sequence[str]) -> int:
    """What the records of a group say, from another terminal."""
    from utils.launch.view import last_progress
    from utils.record import Record

    options = group_parser("status", "What the records of a group say.").parse_args(words)
    where = places_of(options)
    folder = where.results_dir / where.group
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

    parser = Parser(prog="python run.py data", description="What was found of each dataset, and where to put what.")
    parser.add_argument("--data_root", help="where the data lies ($CL_DATA_ROOT, else data)")
    root = data_root(parser.parse_args(words).data_root)
    for name in DATASETS.names():
        print(DATASETS.get(name)().describe(root))
    return COMPLETE
