"""Metrics of the accuracies inside a stream, as pure functions of its evaluation points.

A point is taken every `--eval_every` steps inside a task, and at the end of every task: P of them, in the order of the
stream, all on the same test images. Where tasks are segments of a stream with blurred boundaries, those of a task are
the test images of the classes that belong to it, as far as these have been seen.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Points:
    """The evaluation points of a run in one scenario, in percent, NaN where not measured.

    Attributes:
        steps: training steps until each point, [P].
        tasks: the task that was being trained, or had just been, counted from 0, [P].
        images: training images of the stream that had been gone through, each as often as it came, [P].
        accuracies: on the test images of each task, [P, T]; a stream without boundaries counts as one task.
        seen: on all test images of the classes seen, [P].
    """

    steps: np.ndarray
    tasks: np.ndarray
    images: np.ndarray
    accuracies: np.ndarray
    seen: np.ndarray

    @classmethod
    def of(cls, measured: Mapping[str, Sequence[Any]], scenario: str) -> "Points":
        """The points of a record, from their counts (`utils/run/measurements.py`); there is at least one."""
        correct, total = (np.array(measured[name], dtype=float) for name in (scenario, "total"))
        steps, tasks = (np.array(measured[name]) for name in ("step", "task"))
        seen = 100 * np.nansum(correct, axis=1) / np.nansum(total, axis=1)
        return cls(steps, tasks, np.array(measured["images"]), 100 * correct / total, seen)

    @property
    def num_tasks(self) -> int:
        """T."""
        return self.accuracies.shape[1]

    @property
    def task_ends(self) -> np.ndarray:
        """The steps after which a task ended and another one began, [T - 1]."""
        return self.steps[:-1][np.diff(self.tasks) > 0]


def minimum_accuracy(points: Points) -> float:
    """min-ACC = (1/(T-1)) Σ_{i≤T-2} min_n A(E_i, f_n), over all points n after the end of task i.

    The mean over all tasks but the last of the lowest accuracy on each since it was learned (De Lange, van de Ven and
    Tuytelaars, ICLR 2023, eq. 2, at the end of the stream). NaN for a single task.
    """
    lowest = [points.accuracies[points.tasks > task, task] for task in range(points.num_tasks - 1)]
    return float(np.mean([_lowest(values) for values in lowest])) if lowest else math.nan


def worst_case_accuracy(points: Points) -> float:
    """WC-ACC = (1/T) A(E_{T-1}, f) + (1 − 1/T) min-ACC, with f the network at the end of the stream.

    How much of the last task was learned, and the least that was kept meanwhile of the others (De Lange, van de Ven and
    Tuytelaars, ICLR 2023, eq. 3). NaN for a single task.
    """
    share = 1 / points.num_tasks
    return float(share * points.accuracies[-1, -1] + (1 - share) * minimum_accuracy(points))


def stability_gap(points: Points) -> float:
    """(1/(T-1)) Σ_{k≥1} max_n (B_k − E_k(n)), the largest drop on earlier tasks after the begin of a task, on average.

    E_k(n) is the mean accuracy on the tasks before k at a point n of task k, its end included, and B_k that at the end
    of task k − 1. A task in which it never falls below B_k counts as 0. Unlike forgetting it counts what is regained
    until the end of the task: the transient drop that De Lange, van de Ven and Tuytelaars (ICLR 2023) named so.

    Returns:
        Percentage points; NaN for a single task.
    """
    drops = []
    for task in range(1, points.num_tasks):
        earlier = np.array([_mean(row) for row in points.accuracies[:, :task]])
        before, within = earlier[points.tasks < task], earlier[points.tasks == task]
        drops.append(max(0.0, before[-1] - _lowest(within)) if len(before) else math.nan)
    return float(np.mean(drops)) if drops else math.nan


def area_under_curve(points: Points) -> float:
    """A_AUC = (1/N) Σ_p f(n_p) (n_p − n_{p-1}), the area under the accuracy over the training images gone through.

    f(n) is the accuracy on all test images of the classes seen after n images, n_{-1} is 0 and N all images of the run
    (Koh et al., ICLR 2022, who take equal intervals).
    """
    widths = np.diff(points.images, prepend=0)
    return float((points.seen * widths).sum() / points.images[-1])


def _lowest(values: np.ndarray) -> float:
    """The lowest value that was measured; NaN if none was."""
    found = values[np.isfinite(values)]
    return float(found.min()) if len(found) else math.nan


def _mean(values: np.ndarray) -> float:
    """The mean of what was measured; NaN if nothing was."""
    found = values[np.isfinite(values)]
    return float(found.mean()) if len(found) else math.nan
