"""Groups side by side, or one group beside the published figures, from any records there are."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from utils.records.metrics import MAIN_METRIC
from utils.report import compare_groups, compare_published
from utils.report.files import printable
from utils.report.groups import check_metric, read_groups

_LITERATURE = "published"  # in the place of the other groups' names
_LONGEST = 100  # characters of what is compared in a file's name


def make_comparison(results_dir: Path, groups: Sequence[str], metric: str = MAIN_METRIC) -> tuple[str, Path]:
    """A comparison, and where it is to be written: into the first group's folder, under a name for what is compared.

    Args:
        results_dir: where the records are.
        groups: one, which is held against the literature, or several, which are held against the first of them.
        metric: its name in the records, such as A_f.

    Raises:
        UserError: a group or the metric is unknown, or has nothing to compare.
    """
    found = read_groups(results_dir, groups)
    check_metric([run for group in found for run in group.runs], metric)
    first, *others = found
    text = compare_groups.to_markdown(found, metric) if others else compare_published.to_markdown(first, metric)
    return printable(text), results_dir / first.name / file_name([group.name for group in others], metric)


def file_name(others: Sequence[str], metric: str = MAIN_METRIC) -> str:
    """Such as `compare-published.md`, `compare-a+b.md` or, of another metric, `compare-a.forgetting.md`.

    No two comparisons of a group share a name: what a file name cannot hold or would confuse is told apart by a digest.

    Args:
        others: the groups that the first one is compared with; none: the literature.
        metric: its name in the records.
    """
    compared = "+".join(map(_part, others)) or _LITERATURE
    compared = compared if len(compared) <= _LONGEST else f"{compared[:_LONGEST]}~{_digest(compared)}"
    return f"compare-{compared}{'' if metric == MAIN_METRIC else f'.{metric}'}.md"


def _part(name: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9_-]+", name) and name != _LITERATURE:
        return name
    return f"{re.sub('[^A-Za-z0-9_-]+', '-', name)}~{_digest(name)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()[:8]
