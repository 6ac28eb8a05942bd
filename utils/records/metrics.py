"""Metrics of class-incremental learning, as pure functions of the accuracy matrix.

R is [T, T] in percent: row i is taken after training task i (from 0), column j is the test set of task j, NaN is not
measured. Tasks seen so far (j ≤ i) are measured after every task; R[i, i + 1], the next task just before it is trained,
only where forward transfer is asked for. Everything else is ignored, as where tasks share classes what has been seen of
a later task: it is another test set than the whole task's. Averages over tasks are unweighted. A metric that
needs something that was not measured is NaN, and None in a summary. A metric is declared once, in `METRICS`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import numpy as np

from utils.errors import PluginError, UserError
from utils.records.content import SCENARIOS
from utils.records.points import Points, area_under_curve, minimum_accuracy, stability_gap, worst_case_accuracy


class Measured(Protocol):
    """What `summarise` reads.

    Attributes:
        class_il, task_il, total: correct and all test images, [T][T]; None where not measured.
        untrained: the same three counts of the untrained network, [T] each; None or empty if not measured.
        anytime: mean Class-IL accuracy over the tasks seen in percent, at every evaluation point.
        classes: at the end, by label: `trained`, training images; `correct` in Class-IL and `total`, test images;
            None or empty if not measured.
        points: the evaluation points inside the stream (`Measurements.points`); None or empty if there are none.
        boundaries: of the stream; but for `sharp` ones, classes of a task are seen before it.
    """

    @property
    def class_il(self) -> Sequence[Sequence[int | None]]: ...

    @property
    def task_il(self) -> Sequence[Sequence[int | None]]: ...

    @property
    def total(self) -> Sequence[Sequence[int | None]]: ...

    @property
    def untrained(self) -> Mapping[str, Sequence[int]] | None: ...

    @property
    def anytime(self) -> Sequence[float]: ...

    @property
    def classes(self) -> Mapping[str, Sequence[int]] | None: ...

    @property
    def points(self) -> Mapping[str, Sequence[Any]] | None: ...

    @property
    def boundaries(self) -> str: ...


@dataclass(frozen=True)
class Accuracies:
    """What a metric is a function of: one run in one scenario, in percent, NaN where not measured.

    Attributes:
        matrix: R, [T, T].
        averages: a, the accuracy on what was seen after each task, [T].
        weighted: w, the accuracy on all test images of the classes seen after each task, [T].
        untrained: the untrained network's accuracies, [T].
        anytime: mean accuracy over the tasks seen at every evaluation point; empty where they do not cover the stream.
        classes: accuracy at the end on each class, by the number of its training images; [K, 2], none if not measured.
        points: the evaluation points inside the stream; None if there are none.
    """

    matrix: np.ndarray
    averages: np.ndarray
    weighted: np.ndarray
    untrained: np.ndarray
    anytime: Sequence[float]
    classes: np.ndarray
    points: Points | None


@dataclass(frozen=True)
class Metric:
    """A number that sums up a whole run, declared once for records, tables, comparisons and trackers.

    Attributes:
        name: in records, files and on the command line.
        title: what a table of it is called.
        function: gives percent or percentage points; NaN where what it needs was not measured.
        lower_is_better: which also makes it a difference, in percentage points.
        needs: the options of a run that measure what it needs; empty where every run does.
        scenarios: in which it is taken.
    """

    name: str
    title: str
    function: Callable[[Accuracies], float]
    lower_is_better: bool = False
    needs: str = ""
    scenarios: tuple[str, ...] = SCENARIOS

    @property
    def unit(self) -> str:
        """In words, as a caption has it."""
        return "percentage points, lower is better" if self.lower_is_better else "percent"


def _of_plugin(metric: Metric, run: Accuracies) -> float:
    """What a plug-in's metric gives. Raises PluginError if that is no number, so that no record passes for damaged."""
    try:
        return float(metric.function(run))
    except Exception as error:
        raise PluginError(f"metric {metric.name!r} fails: {type(error).__name__}: {error}") from error


class Metrics(dict[str, Metric]):
    """The known metrics by name, in the order in which they are shown."""

    def register(self, metric: Metric) -> Metric:
        """Add a metric of a plug-in. Raises UserError if its name is taken."""
        if metric.name in self:
            raise UserError(f"metric {metric.name!r} exists already; give the new one another name")
        self[metric.name] = replace(metric, function=partial(_of_plugin, metric))
        return metric

    def __missing__(self, name: str) -> Metric:
        """What is known of a metric that only the plug-in that measured it declares: its name."""
        return Metric(name, name, lambda accuracies: math.nan)


def summarise(measured: Measured) -> dict[str, dict[str, float | list[float | None] | None]]:
    """Every metric of `METRICS` by scenario (`class_il`, `task_il`); None where it cannot be computed.

    Beside them, A is the list of average accuracies after each task.
    """
    untrained, total, summary = measured.untrained, np.asarray(measured.total, dtype=float), {}
    is_sharp = measured.boundaries == "sharp"
    for scenario in SCENARIOS:
        matrix = accuracies(getattr(measured, scenario), measured.total)
        baseline = accuracies(untrained[scenario], untrained["total"]) if untrained else np.full(len(matrix), np.nan)
        weighted = weighted_accuracies(matrix, total, np.tri(len(matrix)) if is_sharp else np.isfinite(matrix))
        means = average_accuracies(matrix) if is_sharp else weighted
        matrix = matrix if is_sharp else np.where(np.tri(len(matrix)), matrix, np.nan)
        # Where the end of some task was not measured, as in joint training, the points do not cover the stream.
        anytime = measured.anytime if scenario == "class_il" and np.isfinite(means).all() else ()
        points = Points.of(measured.points, scenario) if measured.points else None
        found = Accuracies(matrix, means, weighted, baseline, anytime, _classes_of(measured.classes), points)
        values = {each.name: _plain(each.function(found)) for each in METRICS.values() if scenario in each.scenarios}
        summary[scenario] = {"A": [_plain(value) for value in means], **values}
    return summary


def _classes_of(counted: Mapping[str, Sequence[int]] | None) -> np.ndarray:
    """Training images of each class and the accuracy on it, [K, 2]; none if they were not counted."""
    if not counted:
        return np.empty((0, 2))
    return np.stack([np.asarray(counted["trained"], float), accuracies(counted["correct"], counted["total"])], axis=1)


def _plain(value: float) -> float | None:
    """A number that JSON knows."""
    return None if math.isnan(value) else float(value)


def fixed(value: float, num_digits: int = 2, sign: str = "") -> str:
    """A metric as screens and tables write it, such as `-1.20`; what rounds to zero is never negative.

    Args:
        value: percent or percentage points.
        num_digits: after the point.
        sign: `+` writes that of a positive number too.
    """
    return f"{round(value, num_digits) + 0.0:{sign}.{num_digits}f}"


def accuracies(correct: Sequence, total: Sequence) -> np.ndarray:
    """Counts of any shape, None where not measured, as percent, NaN where not measured."""
    return 100 * np.asarray(correct, dtype=float) / np.asarray(total, dtype=float)


def average_accuracies(matrix: np.ndarray) -> np.ndarray:
    """a_i = (1/(i+1)) Σ_{j≤i} R[i, j], the mean accuracy over the tasks seen so far, after each task: [T].

    A_f is the last of them, A_a their mean, the first task included. Where tasks share classes, a_i is w_i: what has
    been seen is then not so many tasks.
    """
    return np.array([row[: task + 1].mean() for task, row in enumerate(matrix)])


def weighted_accuracies(matrix: np.ndarray, total: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """w_i, the accuracy on all test images of the classes seen so far, after each task: [T] (as in FACIL's averages).

    Where tasks have equally many test images it is a_i. Studies with a large first task report these.

    Args:
        matrix: R, [T, T].
        total: test images that each entry of R is the accuracy on, [T, T].
        seen: whether classes of a task, the column, have been seen after another one, the row, [T, T].
    """
    num_tested = np.where(seen, total, 0).sum(axis=1)
    correct = np.where(seen, matrix * total, 0).sum(axis=1)
    return np.divide(correct, num_tested, out=np.full(len(matrix), np.nan), where=num_tested > 0)


def learning_accuracy(matrix: np.ndarray) -> float:
    """A_l = (1/T) Σ_i R[i, i], the accuracy on each task right after it was trained."""
    return matrix.diagonal().mean()


def offline_forgetting(matrix: np.ndarray, include_last_task: bool = True) -> float:
    """F = (1/T) Σ_{j≤T-2} (max_{j≤i≤T-2} R[i, j] − R[T-1, j]), the forgetting of FACIL's tables.

    The maximum is taken before the last task, so that a task which improves at the end counts negative, and the last
    task counts as 0.

    Args:
        matrix: accuracies [T, T].
        include_last_task: False divides by T − 1, as the usual definition does.

    Returns:
        Percentage points; NaN for a single task.
    """
    num_tasks = len(matrix)
    drops = [matrix[task:-1, task].max() - matrix[-1, task] for task in range(num_tasks - 1)]
    return sum(drops) / (num_tasks if include_last_task else num_tasks - 1) if drops else math.nan


def backward_transfer(matrix: np.ndarray) -> float:
    """BWT = (1/(T-1)) Σ_{j≤T-2} (R[T-1, j] − R[j, j]) (Lopez-Paz and Ranzato, 2017); NaN for a single task."""
    changes = (matrix[-1] - matrix.diagonal())[:-1]
    return changes.mean() if len(changes) else math.nan


def forward_transfer(matrix: np.ndarray, untrained: np.ndarray) -> float:
    """FWT = (1/(T-1)) Σ_{i≥1} (R[i-1, i] − b[i]) (Lopez-Paz and Ranzato, 2017); NaN for a single task.

    Args:
        matrix: accuracies [T, T], the next task's before it is trained included.
        untrained: b, the untrained network's accuracies [T].
    """
    gains = matrix.diagonal(offset=1) - untrained[1:]
    return gains.mean() if len(gains) else math.nan


def online_forgetting(matrix: np.ndarray) -> float:
    """Fgt = (1/(T-1)) Σ_{j≤T-2} (max_i R[i, j] − R[T-1, j]), the forgetting of mammoth's tables.

    The maximum runs over all rows, hence Fgt ≥ 0: the last one, and the one before task j was trained where it was
    measured. NaN for a single task.
    """
    if len(matrix) < 2 or np.isnan(matrix[np.tril_indices_from(matrix)]).any():
        return math.nan
    measured = np.tril(np.nan_to_num(matrix), k=1)
    return (measured.max(axis=0) - measured[-1])[:-1].mean()


def average_anytime_accuracy(points: Sequence[float]) -> float:
    """AAA = (1/P) Σ_p (mean accuracy over the tasks seen at evaluation point p); NaN without a point.

    With one point per task, at its end, it is A_a.
    """
    return float(np.mean(points)) if len(points) else math.nan


def shot_accuracy(classes: np.ndarray, fewest: float, most: float) -> float:
    """Mean accuracy over the classes with so many training images, both bounds included; NaN if there are none."""
    found = classes[(classes[:, 0] >= fewest) & (classes[:, 0] <= most), 1]
    return found.mean() if len(found) else math.nan


def _inside_metric(name: str, title: str, function: Callable[[Points], float], **more: Any) -> Metric:
    """A metric of the evaluation points inside the stream."""

    def measure(run: Accuracies) -> float:
        return math.nan if run.points is None else function(run.points)

    return Metric(name, title, measure, **more)


def _shot_metric(name: str, fewest: float, most: float) -> Metric:
    return Metric(
        f"A_{name}",
        f"Accuracy on {name}-shot classes A_{name}",
        lambda run: shot_accuracy(run.classes, fewest, most),
        scenarios=("class_il",),
    )


INSIDE = "--eval_every N"  # what measures accuracies inside the tasks
INSIDE_TASKS = f"{INSIDE} on a stream that has tasks"  # and what it needs of the stream

METRICS = Metrics()
for _metric in (
    Metric("A_f", "Final average accuracy A_f", lambda run: run.averages[-1]),
    Metric("A_a", "Average incremental accuracy A_a", lambda run: run.averages.mean()),
    Metric(
        "W_f",
        "Final accuracy over all test images W_f",
        lambda run: run.weighted[-1],
    ),
    Metric(
        "W_a",
        "Average incremental accuracy over all test images W_a",
        lambda run: run.weighted.mean(),
    ),
    Metric("A_l", "Learning accuracy A_l", lambda run: learning_accuracy(run.matrix)),
    Metric(
        "F",
        "Forgetting F, mean over all tasks",
        lambda run: offline_forgetting(run.matrix),
        lower_is_better=True,
    ),
    Metric(
        "F_excluding_last_task",
        "Forgetting F, mean over all tasks but the last",
        lambda run: offline_forgetting(run.matrix, include_last_task=False),
        lower_is_better=True,
    ),
    Metric("BWT", "Backward transfer BWT", lambda run: backward_transfer(run.matrix)),
    Metric(
        "FWT",
        "Forward transfer FWT",
        lambda run: forward_transfer(run.matrix, run.untrained),
        needs="--ignore_other_metrics 0",
    ),
    Metric(
        "forgetting",
        "Forgetting, mean over all tasks but the last",
        lambda run: online_forgetting(run.matrix),
        lower_is_better=True,
    ),
    Metric(
        "AAA",
        "Average anytime accuracy AAA",
        lambda run: average_anytime_accuracy(run.anytime),
        needs=INSIDE,
        scenarios=("class_il",),
    ),
    _inside_metric(
        "A_AUC",
        "Area under the accuracy curve A_AUC, over images seen",
        area_under_curve,
        needs=INSIDE,
        scenarios=("class_il",),
    ),
    _inside_metric(
        "min-ACC",
        "Average minimum accuracy min-ACC, since each task was learned",
        minimum_accuracy,
        needs=INSIDE_TASKS,
    ),
    _inside_metric("WC-ACC", "Worst-case accuracy WC-ACC", worst_case_accuracy, needs=INSIDE_TASKS),
    _inside_metric(
        "stability_gap",
        "Stability gap, largest drop on earlier tasks after the begin of a task, mean over tasks",
        stability_gap,
        lower_is_better=True,
        needs=INSIDE_TASKS,
    ),
    # Liu et al., Large-Scale Long-Tailed Recognition in an Open World, CVPR 2019.
    _shot_metric("many", 101, math.inf),
    _shot_metric("medium", 20, 100),
    _shot_metric("few", 0, 19),
):
    METRICS[_metric.name] = _metric
MAIN_METRIC = "A_f"
