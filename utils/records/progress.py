"""How far a run is, as it writes in `progress.json` while it goes on."""

import dataclasses
import json
import math
from dataclasses import dataclass
from typing import Any

from utils.records.content import load_json

PROGRESS_SCHEMA = 1
_MEBIBYTE = 2**20
_FIRST_WITH_MEMORY = 1  # the task from which on a run replays, distills and keeps exemplars
_LONGEST_LOSS = 8  # characters
_WITHOUT_STEPS = ("measuring", "measuring norm layers")  # phases that go through batches and take no training step


@dataclass(frozen=True)
class Progress:
    """Where a run stands at one moment.

    Attributes:
        pid: number of its process.
        started: when this process began to train, in seconds since 1970.
        first_step: the step after which it began, 0 unless it goes on from a checkpoint.
        updated: when this was written, in seconds since 1970.
        num_tasks: of the run.
        total_steps: training steps of the whole run, None if they cannot be known before.
        step: training steps of the whole run so far.
        phase: what the run does, such as `training`, `evaluating` or `choosing exemplars`.
        task, stage, epoch: counted from 0.
        num_stages, num_epochs: of this task and of this stage.
        stage_step, stage_total: batches of this stage so far, and in all of its epochs.
        loss: mean of the last logging interval, None before the first one.
        host_bytes, device_bytes: largest memory so far, of the process and on its GPU; None on the CPU.
    """

    pid: int
    started: float
    first_step: int
    updated: float
    num_tasks: int
    total_steps: int | None
    step: int
    phase: str = "training"
    task: int = 0
    stage: int = 0
    num_stages: int = 1
    epoch: int = 0
    num_epochs: int = 1
    stage_step: int = 0
    stage_total: int = 0
    loss: float | None = None
    host_bytes: int = 0
    device_bytes: int | None = None

    @property
    def title(self) -> str:
        """Task, stage, epoch and phase in words, counted from 1; what there is only one of is left out."""
        parts = [f"task {self.task + 1}/{self.num_tasks}"]
        parts += [f"stage {self.stage + 1}/{self.num_stages}"] if self.num_stages > 1 else []
        parts += [f"epoch {self.epoch + 1}/{self.num_epochs}"] if self.num_epochs > 1 else []
        parts += [self.phase] if self.phase != "training" else []
        parts += [f"batch {self.stage_step}/{self.stage_total}"] if self.phase in _WITHOUT_STEPS else []
        return ", ".join(parts)

    @property
    def steps(self) -> str:
        """`step 340/1200`, or the step alone where the whole is unknown."""
        return f"step {self.step}" + (f"/{self.total_steps}" if self.total_steps is not None else "")

    @property
    def loss_text(self) -> str:
        """The loss in at most eight characters, however large it is."""
        if self.loss is None:
            return "–"
        texts = (f"{self.loss:.{digits}g}" for digits in (4, 3, 2, 1))
        return next(text for text in texts if len(text) <= _LONGEST_LOSS)

    @property
    def words(self) -> str:
        """The progress in words."""
        loss = "" if self.loss is None else f", loss {self.loss_text}"
        return f"{self.title}, {self.steps}{loss}"

    @property
    def seconds_per_step(self) -> float | None:
        """Evaluations and all else included; None before the first step of this process."""
        num_steps = self.step - self.first_step
        return max(0.0, self.updated - self.started) / num_steps if num_steps > 0 else None

    def seconds_left(self, now: float) -> float | None:
        """Seconds until the whole run ends, by its own speed so far; None if that is not known yet."""
        if self.total_steps is None or self.seconds_per_step is None:
            return None
        return max(0.0, (self.total_steps - self.step) * self.seconds_per_step - max(0.0, now - self.updated))

    @property
    def peak_mb(self) -> float | None:
        """GPU memory in MiB that the run has taken so far; None if it has not said."""
        return None if self.device_bytes is None else self.device_bytes / _MEBIBYTE

    @property
    def may_grow(self) -> bool:
        """Whether later tasks may take more memory than the run has until now."""
        return self.task < _FIRST_WITH_MEMORY

    def to_json(self) -> bytes:
        """The content of the file."""
        return (json.dumps({"schema": PROGRESS_SCHEMA, **dataclasses.asdict(self)}, allow_nan=False) + "\n").encode()

    @classmethod
    def from_json(cls, content: bytes) -> "Progress | None":
        """What a file holds; None if it is damaged or was written by another version."""
        try:
            values = load_json(content)
        except ValueError:
            return None
        names = {field.name for field in dataclasses.fields(cls)}
        if values.pop("schema", None) != PROGRESS_SCHEMA or values.keys() != names:
            return None
        progress = cls(**values)
        return progress if _is_sound(progress) else None


def _is_sound(progress: Progress) -> bool:
    """Whether every value is of its kind."""
    return all(_is_of(field.type, getattr(progress, field.name)) for field in dataclasses.fields(progress))


def _is_of(kind: Any, value: Any) -> bool:
    if value is None:
        return kind in (int | None, float | None)
    if kind is str:
        return isinstance(value, str)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return False
    return kind not in (int, int | None) or (isinstance(value, int) and value >= 0)


def clock(seconds: float) -> str:
    """Hours, minutes and seconds."""
    return f"{int(seconds) // 3600}:{int(seconds) // 60 % 60:02}:{int(seconds) % 60:02}"
