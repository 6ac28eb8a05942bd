"""Blurred boundaries: some classes come in one task alone, some images of the others in every task."""

from typing import Any, ClassVar

import numpy as np

from datasets.arrangement import N_TASKS, Arranged, Arrangement
from utils.config.options import Condition, Option, above, ranged
from utils.config.registry import STREAMS
from utils.seeds import derive_seed


@STREAMS.register()
class Blurry(Arrangement):
    """i-Blurry (Koh et al., ICLR 2022): N % of the classes are disjoint, M % of the images of each other are spread.

    Every class belongs to a task, as in a split, and the tasks have equally many disjoint classes, as nearly as can be;
    which they are is drawn. The spread images are pooled, shuffled and dealt to all tasks in equal numbers, so that one
    in T of them comes in the task of its class after all.
    """

    options: ClassVar = (
        N_TASKS,
        Option(
            "blurry_disjoint",
            ranged(float, 0, 1),
            0.5,
            "share of the classes that come in one task alone",
            active_when=(above("blurry_minor", 0),),
            min_tasks=2,
        ),
        Option(
            "blurry_minor",
            ranged(float, 0, 1),
            0.1,
            "share of the images of other classes, spread over all tasks",
            active_when=(
                Condition(("blurry_disjoint",), lambda share: share < 1, "it needs --blurry_disjoint below 1"),
            ),
            min_tasks=2,
        ),
    )
    boundaries = "blurred"

    @classmethod
    def identity_values(cls, values: dict[str, Any], dataset: Any) -> dict[str, Any]:
        """All streams in which no image is spread are one: all classes disjoint, or no share of the others spread."""
        is_split = values.get("blurry_disjoint") == 1 or values.get("blurry_minor") == 0
        return values | ({"blurry_disjoint": 1.0, "blurry_minor": 0.0} if is_split else {})

    def arrange(self, labels: np.ndarray, task_of_class: np.ndarray, seed: int) -> Arranged:
        draws = np.random.default_rng(derive_seed(seed, "blurry"))
        num_tasks, tasks = int(task_of_class[-1]) + 1, task_of_class[labels]
        spread = []
        for label in np.flatnonzero(~self.disjoint_classes(task_of_class, draws)):
            rows = np.flatnonzero(labels == label)
            spread.append(draws.permutation(rows)[: round(self.settings["blurry_minor"] * len(rows))])
        pooled = draws.permutation(np.concatenate(spread)) if spread else np.empty(0, dtype=np.int64)
        tasks[pooled] = self.deal(len(pooled), num_tasks, draws)
        return Arranged.by_task(tasks, labels, num_tasks)

    def disjoint_classes(self, task_of_class: np.ndarray, draws: np.random.Generator) -> np.ndarray:
        """Which classes come in one task alone, [K] bool: one of each task, drawn at random, then another of each."""
        shuffled = draws.permutation(len(task_of_class))
        ranks = np.empty(len(task_of_class), dtype=np.int64)
        for task in range(task_of_class[-1] + 1):
            of_task = shuffled[task_of_class[shuffled] == task]
            ranks[of_task] = np.arange(len(of_task))
        return self._first(np.lexsort((task_of_class, ranks)))

    def deal(self, number: int, num_tasks: int, draws: np.random.Generator) -> np.ndarray:
        """The task of each of so many spread images, which are in random order, [number] int64."""
        return np.arange(number) % num_tasks

    def _first(self, order: np.ndarray) -> np.ndarray:
        """The disjoint classes, [K] bool: as many as are wanted, from the beginning of an order."""
        is_disjoint = np.zeros(len(order), dtype=bool)
        is_disjoint[order[: round(self.settings["blurry_disjoint"] * len(order))]] = True
        return is_disjoint
