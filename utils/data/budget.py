"""A budget of training: runs end after equally many rows, whatever a step of theirs costs.

The budget is in rows that go through the network and back, of the stream and of memory. `--budget_steps N` is N times
the rows of `--batch_size`, the steps that plain training would take: replaying as many rows beside each batch halves
them. All stages that train are cut to the same share of their rows. So the stream stays whole: every task is reached,
and no task gets more of its images than another. Evaluation, the choice of exemplars, a teacher's forward passes and
passes that train nothing are not counted.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import accumulate

from utils.config.configuration import Configuration, scaled_milestones
from utils.data.plan import CountedStage, Stage, StreamSizes, count_stages
from utils.errors import UserError


@dataclass(frozen=True)
class StageCost:
    """What a stage costs, in rows, as if the memory were full.

    Attributes:
        num_batches: of an epoch.
        full, last: of a step on a full batch, and on the last one of an epoch.
    """

    num_batches: int
    full: int
    last: int

    @classmethod
    def of(cls, config: Configuration, counted: CountedStage) -> "StageCost":
        capacity = getattr(config, "buffer_size", None) or 0
        sizes = (counted.batch_size, counted.last_batch)
        full, last = (config.parts.method.trained_rows(config, counted.task, size, capacity) for size in sizes)
        return cls(counted.num_batches, full, last)

    @property
    def epoch(self) -> int:
        """Rows of a whole epoch."""
        return (self.num_batches - 1) * self.full + self.last

    def rows_of(self, num_steps: int) -> int:
        """Rows of the first steps; in an epoch that is cut short, all batches are full."""
        epochs, rest = divmod(num_steps, self.num_batches)
        return epochs * self.epoch + rest * self.full

    def steps_within(self, num_rows: int) -> int:
        """The most steps that take no more rows."""
        epochs, rest = divmod(num_rows, self.epoch)
        return epochs * self.num_batches + min(rest // self.full, self.num_batches - 1)


@dataclass(frozen=True)
class PlannedStages:
    """All that a run trains, counted before it begins.

    Attributes:
        sizes: of its stream.
        by_task: every stage of every task, as `count_stages` gives them, cut to the run's budget if it has one.
        share: of its steps that it takes by a budget.
    """

    sizes: StreamSizes
    by_task: tuple[tuple[CountedStage, ...], ...]
    share: float = 1.0

    def task_ends(self, config: Configuration) -> list[int]:
        """The step of the run after which each task ends."""
        steps = (
            sum(
                each.stage.num_steps(min(each.num_batches, config.debug_mode or each.num_batches))
                for each in stages
                if each.stage.trains
            )
            for stages in self.by_task
        )
        return list(accumulate(steps))


def plan_stages(config: Configuration, sizes: StreamSizes) -> PlannedStages:
    """What a run trains.

    Raises:
        UserError: as `count_stages`; the budget is larger than the run, or leaves a stage without a step.
    """
    counted = count_stages(config, sizes)
    if not config.budget_steps:
        return PlannedStages(sizes, counted)
    costs = costs_of(config, counted)
    share, planned, spent = _share(config, costs), Fraction(0), 0
    steps: dict[str, int] = {}
    for each, cost in costs:  # what rounding leaves of one stage is the next one's
        planned += share * cost.rows_of(each.num_steps)
        steps[each.label] = cost.steps_within(int(planned) - spent)
        spent += cost.rows_of(steps[each.label])
    if not all(steps.values()):
        largest = max(Fraction(cost.full, cost.rows_of(each.num_steps)) for each, cost in costs)
        raise UserError(
            f"--budget_steps {config.budget_steps} leaves {next(label for label in steps if not steps[label])} without "
            f"a step: give at least {math.ceil(config.budget_steps * largest / share)}"
        )
    cut = (
        tuple(replace(each, stage=_cut(each, steps[each.label])) if each.stage.trains else each for each in stages)
        for stages in counted
    )
    return PlannedStages(sizes, tuple(cut), float(share))


def budget_rows(config: Configuration) -> int:
    """The budget in rows; 0: there is none."""
    return config.budget_steps * config.batch_size


def costs_of(config: Configuration, counted: Iterable[Iterable[CountedStage]]) -> list[tuple[CountedStage, StageCost]]:
    """The stages that train, each with its cost."""
    return [(each, StageCost.of(config, each)) for stages in counted for each in stages if each.stage.trains]


def _share(config: Configuration, costs: Iterable[tuple[CountedStage, StageCost]]) -> Fraction:
    total, budget = sum(cost.rows_of(each.num_steps) for each, cost in costs), budget_rows(config)
    if budget > total:
        raise UserError(
            f"--budget_steps {config.budget_steps} is more than the run takes, which is {total // config.batch_size} "
            f"times the {config.batch_size} rows of --batch_size: give at most as many, or more --epochs"
        )
    return Fraction(budget, total)


def _cut(counted: CountedStage, num_steps: int) -> Stage:
    """A stage that ends after so many steps, its schedule in proportion."""
    stage, length = counted.stage, num_steps / counted.num_batches
    milestones = scaled_milestones(stage.milestones, num_steps / counted.num_steps)
    return replace(stage, epochs=math.ceil(length), milestones=milestones, length=length)
