"""Stochastic blurred boundaries: the sizes of the tasks are random too."""

from dataclasses import replace
from typing import ClassVar

import numpy as np

from datasets.arrangement import N_TASKS, even_sizes
from datasets.streams.blurry import Blurry
from utils.config.registry import STREAMS
from utils.seeds import derive_seed


@STREAMS.register()
class SiBlurry(Blurry):
    """Si-Blurry (Moon et al., ICCV 2023): numbers of classes, of disjoint ones and of spread images are random.

    The classes are cut into tasks at random, every task with at least one class; N % of all classes, drawn at random,
    are disjoint; each of the spread images comes in a random task.
    """

    options: ClassVar = (replace(N_TASKS, help="number of tasks, whose sizes are drawn"), *Blurry.options[1:])

    def task_sizes(self, num_classes: int, seed: int) -> tuple[int, ...]:
        even_sizes(num_classes, self._num_tasks)  # which raises if there are too few classes
        draws = np.random.default_rng(derive_seed(seed, "si-blurry"))
        cuts = np.sort(draws.choice(num_classes - 1, self._num_tasks - 1, replace=False) + 1)
        return tuple(np.diff([0, *cuts, num_classes]).tolist())

    def disjoint_classes(self, task_of_class: np.ndarray, draws: np.random.Generator) -> np.ndarray:
        return self._first(draws.permutation(len(task_of_class)))

    def deal(self, number: int, num_tasks: int, draws: np.random.Generator) -> np.ndarray:
        return draws.integers(num_tasks, size=number)
