"""Groups side by side, or one group beside the published figures, from any records there are."""

from collections.abc import Sequence
from pathlib import Path

from utils.record import write_atomically
from utils.report import compare_groups, compare_published
from utils.report.groups import check_metric, read_groups
from utils.report.tables import MAIN_METRIC

FILE = "compare.md"


def write_comparison(results_dir: Path, groups: Sequence[str], metric: str = MAIN_METRIC) -> tuple[str, Path]:
    """Write `compare.md` into the first group's folder, and give its text and its path.

    Args:
        results_dir: where the records are.
        groups: one, which is held against the literature, or several, which are held against the first of them.
        metric: its name in the records, such as A_f.

    Raises:
        UserError: a group or the metric is unknown, or has nothing to compare.
        DiskError: the folder cannot be written.
    """
    found = read_groups(results_dir, groups)
    check_metric(found, metric)
    first = found[0]
    text = compare_groups.to_markdown(found, metric) if found[1:] else compare_published.to_markdown(first, metric)
    path = results_dir / first.name / FILE
    # A folder's or a user's name may hold what UTF-8 cannot.
    encoded = text.encode("utf-8", errors="backslashreplace")
    write_atomically(path, lambda file: file.write(encoded))
    return encoded.decode("utf-8"), path
