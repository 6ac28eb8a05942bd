"""No boundary at all: each class comes and goes as a Gaussian in time."""

from typing import ClassVar

import numpy as np

from datasets.arrangement import N_TASKS, Arranged, Arrangement
from utils.config.options import Option, ranged
from utils.config.registry import STREAMS
from utils.seeds import derive_seed


@STREAMS.register()
class Gaussian(Arrangement):
    """The task-free stream of Shanahan et al. (Encoders and Ensembles for Task-Free Continual Learning, 2021).

    The times of the images of a class are normally distributed around its peak; the peaks follow each other at equal
    distances through the stream, of length 1, and images come in the order of their times. Segments of equal length
    stand for tasks, after each of which the network is evaluated; a class belongs to that of its peak. Neither methods
    nor norm layers are told where a segment begins. Where K classes do not divide evenly into the segments, the peaks
    of a segment divide it evenly.
    """

    options: ClassVar = (
        N_TASKS,
        Option(
            "gaussian_width",
            ranged(float, 0, 100),
            1.0,
            "standard deviation of the times of a class's images, in distances between neighbouring peaks",
        ),
    )
    boundaries = "none"
    is_shuffled = False

    def arrange(self, labels: np.ndarray, task_of_class: np.ndarray, seed: int) -> Arranged:
        draws = np.random.default_rng(derive_seed(seed, "gaussian"))
        sizes = np.bincount(task_of_class)
        num_tasks, ranks = len(sizes), np.concatenate([np.arange(size) for size in sizes])
        peaks = (task_of_class + (ranks + 0.5) / sizes[task_of_class]) / num_tasks
        width = self.settings["gaussian_width"] / len(peaks)
        times = peaks[labels] + width * draws.standard_normal(len(labels))
        rows = np.argsort(times, kind="stable")
        segments = np.clip(times[rows] * num_tasks, 0, num_tasks - 1).astype(np.int64)
        return Arranged(rows, np.searchsorted(segments, np.arange(num_tasks + 1)))
