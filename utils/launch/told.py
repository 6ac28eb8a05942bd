"""How far a run is, by what it has written last: a line of losses, of accuracies, or of plain progress."""

import json
import operator
import re
from dataclasses import dataclass
from typing import Any

from utils.launch.engine import tail
from utils.launch.steps import StageSteps
from utils.records.record import Record

# As `utils/run/progress.py` and `utils/run/training.py` word them.
_PROGRESS = re.compile(
    r"task (?P<task>\d+)/\d+(, stage (?P<stage>\d+)/\d+)?(?P<epoch>, epoch \d+/\d+)?"
    r"  step (?P<done>\d+)/(?P<total>\d+)  loss (?P<loss>\S+)  "
)
_AFTER_TASK = re.compile(r"after task \d+/\d+: ")


@dataclass(frozen=True)
class Told:
    """What a run has told of its progress.

    Attributes:
        words: the same for people.
        step: training steps of the whole run; None where only those of a stage are known.
        task, stage: counted from 0.
        done: steps of that stage.
    """

    words: str
    step: int | None = None
    task: int = 0
    stage: int = 0
    done: int = 0

    def steps_done(self, stages: StageSteps | None) -> int | None:
        """Training steps of the whole run; `stages` has how many each stage takes. None if that is not known."""
        if self.step is not None:
            return self.step
        if stages is None or self.task >= len(stages) or self.stage >= len(stages[self.task]):
            return None
        task = stages[self.task]  # some stages only measure, and take no training step
        return sum(map(sum, stages[: self.task])) + sum(task[: self.stage]) + min(self.done, task[self.stage])


def read_told(record: Record) -> Told | None:
    """What the run of a record has told last; None if it has told nothing, as before its first task."""
    measured = _last_line(record)
    lines = tail(record.log_path)
    said = _last_said(lines)
    if said is not None and (measured is None or _changed(record.log_path) > _changed(record.metrics_path)):
        return said
    if measured is not None:
        return measured
    return Told("task 1", 0) if lines else None


def _last_line(record: Record) -> Told | None:
    """By the last line of `metrics.jsonl`; None if there is none, or it is damaged."""
    lines = tail(record.metrics_path)
    try:
        line = json.loads(lines[-1])
        task, step = operator.index(line["task"]), operator.index(line["step"])
        done = " done" if line.get("kind") in ("evaluation", "retuned") else ""
        loss = f", loss {line['loss']:.3f}" if "loss" in line else ""
        return Told(f"task {task + 1}{done}, step {step}{loss}", step, task)
    except (IndexError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _last_said(lines: list[str]) -> Told | None:
    """By the last line of progress in `log.txt`, unless its task is over; None if there is none."""
    for line in reversed(lines):
        found: Any = _PROGRESS.match(line)
        if found:
            task, stage, done = int(found["task"]) - 1, int(found["stage"] or 1) - 1, int(found["done"])
            words = f"task {task + 1}{found['epoch'] or ''}, step {done}/{found['total']}"
            return Told(f"{words}, loss {found['loss']}", None, task, stage, done)
        if _AFTER_TASK.match(line):
            return None
    return None


def _changed(path: Any) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def last_progress(record: Record) -> str:
    """What the run of a record has told last, in words; empty if it has told nothing."""
    told = read_told(record)
    return told.words if told else ""
