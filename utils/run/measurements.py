"""What a run has measured so far: counts, accuracies, losses since the last line, and a digest of the weights."""

import contextlib
import hashlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from utils.errors import Diverged, UserError
from utils.passes import Passes
from utils.run.evaluate import Counts


@dataclass
class Measurements:
    """What was measured so far.

    Attributes:
        class_il, task_il, total: counts [T][T]; row: after that task, column: that task's test set; None: not measured.
        untrained: the same counts of the untrained network, T each; empty unless forward transfer is measured.
        anytime: mean Class-IL accuracy in percent over the tasks seen, at every evaluation point.
        classes: at the end, by label: `trained`, training images; `correct` in Class-IL and `total`, test images.
        points: the evaluation points, in their order, if any are asked for inside tasks: `step`, training steps until
            then; `task`, counted from 0; `images` until then; and the counts `class_il`, `task_il` and `total` of the
            same test images at every point, a list each with an entry per task, None where no class has been seen (one
            entry for all of a stream without boundaries, whose points are of task 0). None in a run that goes on from a
            checkpoint that lacks `cost`.
        cost: of the training steps so far: `images`, training images of the stream gone through, each as often as it
            came; `forward_rows`, rows that went through a network, memory's and those of teachers too; `backward_rows`,
            those of them that went back; None if that is not known, as in checkpoints of earlier versions.
        norms: what was measured of the norm layers (`utils/run/diagnosis.py`); empty unless it is asked for.
        boundaries: of the stream (`datasets/arrangement.py`).
        seconds: where the time went, by kind; together they are the time of the run.

            `start`: from the start of the process to its first step, once per start. `data`: fetching and augmenting
            the batches of the stream and of exemplars. `training`: steps, with what they draw from memory and write.
            `measuring`: passes that train nothing. `evaluation`: on test and held-out images. `exemplars`: choosing
            them. `norms`: measuring the norm layers. `checkpoint`: saving the state.
    """

    class_il: list[list[int | None]]
    task_il: list[list[int | None]]
    total: list[list[int | None]]
    untrained: dict[str, list[int]] = field(default_factory=dict)
    anytime: list[float] = field(default_factory=list)
    classes: dict[str, list[int]] = field(default_factory=dict)
    points: dict[str, list[Any]] = field(default_factory=dict)
    cost: dict[str, int] | None = None
    norms: dict[str, Any] = field(default_factory=dict)
    boundaries: str = "sharp"
    seconds: dict[str, float] = field(default_factory=lambda: {"training": 0.0, "evaluation": 0.0})

    @classmethod
    def empty(cls, num_tasks: int, boundaries: str) -> "Measurements":
        """Nothing measured yet."""
        tables: list[list[list[int | None]]] = [[[None] * num_tasks for _ in range(num_tasks)] for _ in range(3)]
        class_il, task_il, total = tables
        cost = dict.fromkeys(("images", "forward_rows", "backward_rows"), 0)
        return cls(class_il, task_il, total, cost=cost, boundaries=boundaries)

    def add_cost(self, num_images: int, passes: Passes) -> None:
        """Count a training step."""
        if self.cost is not None:
            self.cost["images"] += num_images
            self.cost["forward_rows"] += passes.forward
            self.cost["backward_rows"] += passes.backward

    def add_point(self, step: int, task: int, counts: Sequence[Counts]) -> None:
        """Add an evaluation point, by the counts on the test images of each task; none where some may be missing."""
        if self.cost is None:
            return
        tested = [each if each.total else None for each in counts]
        point = {
            "step": step,
            "task": task,
            "images": self.cost["images"],
            "class_il": [each and each.correct_class_il for each in tested],
            "task_il": [each and each.correct_task_il for each in tested],
            "total": [each and each.total for each in tested],
        }
        for name, value in point.items():
            self.points.setdefault(name, []).append(value)

    def add_seconds(self, kind: str, seconds: float) -> None:
        """Add time that was spent."""
        self.seconds[kind] = self.seconds.get(kind, 0.0) + seconds


class Stopwatch:
    """Divides the time of a run by kind of work: at every moment the innermost kind under way counts.

    Args:
        seconds: by kind, added to.
        clock: seconds, monotonic.
    """

    def __init__(self, seconds: dict[str, float], clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._kind: str | None = None  # nothing counts before the first kind
        self._since = 0.0

    @contextlib.contextmanager
    def during(self, kind: str) -> Iterator[None]:
        """Count the time inside for a kind, and afterwards again for the former kind."""
        former = self._switch(kind)
        try:
            yield
        finally:
            self._switch(former)

    def _switch(self, kind: str | None) -> str | None:
        now, former = self._clock(), self._kind
        if former is not None:
            self._seconds[former] = self._seconds.get(former, 0.0) + now - self._since
        self._kind, self._since = kind, now
        return former


def check_terms(losses: Any, model: str) -> None:
    """Raise UserError unless this is what the `observe` of a method gives: loss terms, detached, by their names."""
    if not isinstance(losses, dict) or not all(isinstance(value, Tensor) for value in losses.values()):
        raise UserError(
            f"--model {model}: its `observe` gives {losses!r}; return a dict of tensors, such as that of "
            "`self.update(loss)`"
        )
    attached = [name for name, value in losses.items() if value.requires_grad]
    if attached:
        raise UserError(
            f"--model {model}: its `observe` gives {attached[0]!r} with its graph; return `.detach()` of it"
        )


class LossMeter:
    """Sums losses on the device; reading the mean is what waits for it."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}  # steps that had each term
        self.num_steps = 0
        self.last: float | None = None

    def add(self, losses: dict[str, Tensor]) -> None:
        """Add the terms of one step."""
        for name, value in losses.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value.float().clone()
            self.counts[name] = self.counts.get(name, 0) + 1
        self.num_steps += 1

    def is_finite(self) -> bool:
        """Whether every loss since the last reading was finite: a NaN or an infinity stays in the sum."""
        return all(math.isfinite(value.item()) for value in self.sums.values())

    def read(self) -> dict[str, float]:
        """The means since the last reading; starts anew."""
        means = {name: value.item() / self.counts[name] for name, value in self.sums.items()}
        self.sums, self.counts, self.num_steps = {}, {}, 0
        self.last = means.get("loss")
        return means

    def state_dict(self) -> dict[str, Any]:
        return {"sums": self.sums, "counts": self.counts, "num_steps": self.num_steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.sums, self.counts = dict(state["sums"]), dict(state["counts"])
        self.num_steps = state["num_steps"]


def weights_digest(network: torch.nn.Module) -> str:
    """SHA-256 of all parameters and buffers, bit for bit.

    Raises:
        Diverged: one of them is not finite, which a loss had no more step to show.
    """
    digest = hashlib.sha256()
    for name, value in network.state_dict().items():
        array = value.detach().cpu().contiguous()
        if not torch.isfinite(array).all():
            raise Diverged(f"{name} is no longer finite after the last step; a lower --lr may help")
        digest.update(f"{name} {array.dtype} {tuple(array.shape)}".encode())
        digest.update(array.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
