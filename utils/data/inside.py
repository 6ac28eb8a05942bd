"""Checks of the evaluations inside tasks, `--eval_every` and `--eval_images`, against the sizes of a stream."""

from collections.abc import Iterable

from utils.config.configuration import Configuration
from utils.data.budget import PlannedStages
from utils.errors import UserError


def check_inside(config: Configuration, planned: PlannedStages, tested: Iterable[int]) -> None:
    """Raise UserError if `--eval_every` never falls inside a task, or if `--eval_images` is too large or too small.

    Too large leaves out no test image, too small all of some class.

    Args:
        config: of the run.
        planned: what it trains.
        tested: test images of each class, by label.
    """
    if not config.eval_every:
        return
    every, ends = config.eval_every, planned.task_ends(config)
    if set(range(every, ends[-1], every)) <= set(ends):
        raise UserError(
            f"--eval_every {every} evaluates nowhere inside a task, as tasks end after step "
            f"{', '.join(map(str, ends))}: give fewer"
        )
    class_sizes, most_classes = list(tested), max(planned.sizes.task_sizes)
    most = max(sum(class_sizes[label] for label in task) for task in planned.sizes.task_classes)
    number = config.eval_images
    if number >= most:
        raise UserError(
            f"--eval_images {number} leaves out no image, as no task has more than {most} to test on: give fewer, or "
            "leave it out"
        )
    if 0 < number < most_classes:
        raise UserError(
            f"--eval_images {number} leaves out all test images of some class, as a task has {most_classes} "
            "classes: give at least as many"
        )
