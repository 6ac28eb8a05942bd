"""How long runs take, by the records of other runs and by their progress; and how much memory on a GPU.

Nothing here imports torch.
"""

import contextlib
import heapq
import json
import os
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from utils.config.configuration import readable_name
from utils.config.registry import BACKBONES, DATASETS
from utils.errors import UserError
from utils.launch.engine import Attempt
from utils.launch.job import Job, kind_of
from utils.launch.scheduler import PlanProgress
from utils.launch.steps import StepCounts
from utils.machine import cpu_name
from utils.records.collect import Run, read_run

_MEBIBYTE = 2**20
_SAMPLES = 3  # runs of a kind that are read to learn how fast its steps are


class Estimates:
    """How long runs took: those equal but for the seed, in all groups of a results folder, or else others, by speed.

    A record is read once, when a run of its kind is first asked about; a damaged one is left out.

    Args:
        results_dir: where the groups are.
        devices: the kinds of device whose times count, `cpu` or names of GPUs; None: any.
        threads: of a run whose time counts; None: any number.

    Attributes:
        steps: that jobs train.
    """

    def __init__(self, results_dir: Path, devices: Collection[str] | None = None, threads: int | None = None) -> None:
        self._results_dir = results_dir
        self._devices = devices
        self._threads = threads
        self._folders: dict[str, list[Path]] | None = None
        self._read: dict[str, list[Run]] = {}
        self._equal: dict[tuple[str, tuple[str, ...]], dict[str, list[Run]]] = {}
        self._sampled: dict[str, list[Run]] = {}
        self._by_step: dict[tuple[Any, ...], dict[str, list[_Speed]]] = {}
        self.steps = StepCounts()

    def seconds(self, job: Job) -> float | None:
        """Mean time in seconds of equal runs on this kind of machine; None if there is none."""
        return _mean(_seconds(run) for run in self._runs_like(job) if self._is_comparable(run.environment))

    def rough_seconds(self, job: Job) -> float | None:
        """Time in seconds by the speed of other runs on this kind of machine, None if there is none.

        They had the same norm layer in the same network, batches of the same size and images of the same size; where
        some are of the same method, these alone count. The start takes as long as theirs, and a step of re-tuning norm
        layers as one of training.
        """
        num_steps = self.steps.of(job) + self.steps.of_retuning(job)
        speeds = self._speeds(job)
        alike = speeds.get(job.config.model) or [each for every in speeds.values() for each in every]
        return _mean(each.start + num_steps * each.per_step for each in alike)

    def memory_mb(self, job: Job) -> float | None:
        """Largest memory in MiB that an equal run had on a GPU; None if there is none."""
        found = [_memory_mb(run) for run in self._runs_like(job)]
        return max((memory for memory in found if memory is not None), default=None)

    def _is_comparable(self, environment: Mapping[str, Any]) -> bool:
        if environment.get("cpu") != cpu_name():
            return False
        if self._threads is not None and environment.get("threads") != self._threads:
            return False
        return self._devices is None or environment.get("device") in self._devices

    def _runs_like(self, job: Job) -> list[Run]:
        config, kind = job.config, kind_of(readable_name(job.config))
        used = config.used()
        counting = {
            name: (used[name], option.default)
            for name, option in sorted(config.options.items())
            if name in used and option.changes_result and name != "seed"
        }
        index = kind, tuple(counting)
        if index not in self._equal:
            self._equal[index] = defaultdict(list)
            for run in self._runs_of(kind):
                values = [run.values.get(name, default) for name, (_, default) in counting.items()]
                self._equal[index][_likeness(values, run.known_config.plugins, run.known_config.data)].append(run)
        own = [value for value, _ in counting.values()]
        return self._equal[index].get(_likeness(own, config.parts.unreleased_code, job.data.fingerprint), [])

    def _runs_of(self, kind: str) -> list[Run]:
        if kind not in self._read:
            self._read[kind] = _complete_runs(self._found().get(kind, []))
        return self._read[kind]

    def _speeds(self, job: Job) -> dict[str, list["_Speed"]]:
        """How fast runs in networks like that of a job were, by method."""
        step = _step(job.config.values, job.data.fingerprint)
        if step not in self._by_step:
            speeds: dict[str, list[_Speed]] = defaultdict(list)
            for run in self._samples(job.config.nl):
                is_alike = self._is_comparable(run.environment) and _step(run.values, run.known_config.data) == step
                if run.known_result.steps and is_alike:
                    speeds[str(run.values.get("model"))].append(_Speed.of(run))
            self._by_step[step] = speeds
        return self._by_step[step]

    def _samples(self, norm: str) -> list[Run]:
        """Some runs of every kind whose name has a norm layer."""
        if norm not in self._sampled:
            folders = [
                each for kind, found in self._found().items() if f"-{norm}-" in kind for each in found[:_SAMPLES]
            ]
            self._sampled[norm] = _complete_runs(folders)
        return self._sampled[norm]

    def _found(self) -> dict[str, list[Path]]:
        """The folders of complete runs, by the kind of run, which is in their names."""
        if self._folders is None:
            self._folders = defaultdict(list)
            for folder in _complete_folders(self._results_dir):
                self._folders[kind_of(folder.name)].append(folder)
        return self._folders


class _Speed(NamedTuple):
    """How fast a run was.

    Attributes:
        start: seconds until its first step.
        per_step: seconds of each step, with evaluations and all else that more steps lengthen.
    """

    start: float
    per_step: float

    @classmethod
    def of(cls, run: Run) -> "_Speed":
        """That of a complete run; measuring the norm layers takes its time once per task, whatever the steps."""
        result = run.known_result
        start, norms = (result.seconds.get(kind, 0.0) for kind in ("start", "norms"))
        return cls(start, (_seconds(run) - start - norms) / result.steps)


def _complete_folders(results_dir: Path) -> Iterator[Path]:
    """Every run's folder that has a result; what cannot be entered is left out."""
    for folder, inner, names in os.walk(results_dir):
        if "config.json" in names:
            inner.clear()  # what a run keeps beside its record, such as a tracker's files, may be many
            if "result.json" in names:
                yield Path(folder)


def _likeness(values: list[Any], plugins: Iterable[str], data: str) -> str:
    """A key of the options that count, equal for runs whose results can differ by the seed alone."""
    return json.dumps([values, sorted(plugins), data])


def _step(values: Mapping[str, Any], data: str) -> tuple[Any, ...]:
    """What the time of a step depends on most: images, layers, and the backbone with its own options."""
    size, of_backbone = None, []
    with contextlib.suppress(UserError):  # the dataset or the backbone of a plug-in that is not loaded
        size = DATASETS.get(str(values.get("dataset"))).image_size
        of_backbone = [option.name for option in BACKBONES.get(str(values.get("backbone"))).options]
    names = ("nl", "backbone", *of_backbone, "batch_size", "precision")
    return (size or data, *(values.get(name) for name in names))


def _complete_runs(folders: Iterable[Path]) -> list[Run]:
    """The complete runs among the folders whose machine is known."""
    runs = map(read_run, folders)
    return [run for run in runs if run.result and run.result.seconds and run.environment]


def _seconds(run: Run) -> float:
    """What a complete run took in all."""
    return sum(run.known_result.seconds.values())


def _memory_mb(run: Run) -> float | None:
    """The largest that it had on its GPU; None on the CPU."""
    device_bytes = run.known_result.peak_memory.get("device_bytes")
    return None if device_bytes is None else device_bytes / _MEBIBYTE


def _mean(numbers: Iterable[float]) -> float | None:
    found = list(numbers)
    return sum(found) / len(found) if found else None


class Remaining:
    """Simulates the rest of a plan: each waiting run starts where a slot comes free first.

    A run under way that has reported steps continues at its own speed. How long another one takes is known from the
    runs of its kind that this launcher has completed, else from the records of equal runs, else from the speed of runs
    of its kind under way, else from the records of other runs, else it is the mean of all that is known.

    Args:
        estimates: from records.
        clock: seconds, monotonic.
    """

    def __init__(self, estimates: Estimates, clock: Callable[[], float] = time.monotonic) -> None:
        self._estimates = estimates
        self._clock = clock
        self._recorded: dict[str, tuple[float | None, float | None]] = {}
        self._by_kind: dict[str, float] = {}  # mean wall time
        self._num_by_kind: dict[str, int] = defaultdict(int)
        self._paces: dict[str, _Pace] = {}  # of the runs under way, by name
        self._speed_by_kind: dict[str, float] = {}  # seconds per step of a whole run, its start included
        self._num_learned = 0
        self._num_parallel = 1

    def note(self, progress: PlanProgress) -> None:
        """Read the progress of the runs under way; to be called when nothing more can be started.

        While runs wait, as many run at a time as do now.
        """
        self._num_parallel = max(1, len(progress.running))
        self._learn(progress)
        self._listen(progress)

    def seconds(self, progress: PlanProgress, num_following: int = 0) -> float | None:
        """Seconds until the last run ends; None as long as nothing is known.

        Args:
            progress: of the plan.
            num_following: runs that are not among its jobs yet.
        """
        self._learn(progress)
        self._listen(progress)
        attempts = list(progress.running.values())
        running = [self._left(attempt) for attempt in attempts]
        waiting = [self._whole(job) for job in progress.to_come] + [None] * num_following
        known = [seconds for _, seconds in running if seconds is not None]
        known += [seconds for seconds in waiting if seconds is not None]
        typical = _mean(self._by_kind.values() or known)  # of runs of which nothing is known
        if typical is None:
            return None if running or waiting else 0.0
        now = self._clock()
        ends = [
            left if left is not None else max(0.0, (typical if whole is None else whole) - (now - attempt.started))
            for (left, whole), attempt in zip(running, attempts, strict=True)
        ]
        ends += [0.0] * (self._num_parallel - len(ends))
        return last_end(ends, [typical if seconds is None else seconds for seconds in waiting])

    def _learn(self, progress: PlanProgress) -> None:
        """Take note of the runs that ended since the last time, as if each had been run from its beginning."""
        for job, took in progress.finished[self._num_learned :]:
            pace, num_steps, kind = self._paces.get(job.name), self._estimates.steps.of(job), kind_of(job.name)
            if pace is not None and pace.seconds_per_step is not None:
                took += pace.first_step * pace.seconds_per_step
            self._num_by_kind[kind] += 1
            mean = self._by_kind.get(kind, 0.0)
            self._by_kind[kind] = mean + (took - mean) / self._num_by_kind[kind]
            if num_steps:
                self._speed_by_kind[kind] = self._by_kind[kind] / num_steps
        self._num_learned = len(progress.finished)

    def _listen(self, progress: PlanProgress) -> None:
        """Take note of how far the runs under way are."""
        now = self._clock()
        for name, attempt in progress.running.items():
            reported = attempt.job.record.read_progress()
            step = 0 if reported is None else reported.step
            pace = self._paces.get(name)
            if pace is None or pace.started != attempt.started or step < pace.last_step:
                self._paces[name] = _Pace(attempt.started, step, step, now)
            elif step > pace.last_step:
                self._paces[name] = pace.after(step, now)
        self._paces = {name: pace for name, pace in self._paces.items() if name in progress.running}

    def _left(self, attempt: Attempt) -> tuple[float | None, float | None]:
        """Seconds that a run under way still takes by its own speed, and seconds that a whole run of it takes."""
        pace, num_steps = self._paces[attempt.job.name], self._estimates.steps.of(attempt.job)
        speed, kind = pace.seconds_per_step, kind_of(attempt.job.name)
        is_better_known = kind in self._by_kind and not pace.is_without_start
        if speed is None or is_better_known:
            return None, self._whole(attempt.job)
        if num_steps and kind not in self._by_kind:
            whole = pace.moment - pace.started + (num_steps - pace.last_step + pace.first_step) * speed
            self._speed_by_kind[kind] = whole / num_steps
        left = (num_steps - pace.last_step) * speed - (self._clock() - pace.moment)
        return max(0.0, left), self._whole(attempt.job)

    def _whole(self, job: Job) -> float | None:
        """Seconds that a whole run takes, None if nothing is known of it yet."""
        kind = kind_of(job.name)
        if kind in self._by_kind:
            return self._by_kind[kind]
        if job.name not in self._recorded:
            self._recorded[job.name] = self._estimates.seconds(job), self._estimates.rough_seconds(job)
        recorded, rough = self._recorded[job.name]
        if recorded is not None:
            return recorded
        num_steps = self._estimates.steps.of(job)
        speed = self._speed_by_kind.get(kind)
        if speed is None and rough is None:
            speed = _mean(self._speed_by_kind.values())
        return rough if speed is None else num_steps * speed


def last_end(ends: Iterable[float], waiting: Iterable[float]) -> float:
    """When the last run ends, if each waiting one starts where a slot comes free first.

    Args:
        ends: when each slot comes free; at least one.
        waiting: what the runs take that wait, in their order.
    """
    slots = list(ends)
    heapq.heapify(slots)
    for seconds in waiting:
        heapq.heapreplace(slots, slots[0] + seconds)
    return max(slots)


@dataclass(frozen=True)
class _Pace:
    """How fast a run under way is.

    Attributes:
        started: when its process was started.
        first_step: the step it began after.
        last_step: the last step it has reported.
        moment: when it did.
        since: the first step that it reported here, and when: what came before was its start too; None before that.
    """

    started: float
    first_step: int
    last_step: int
    moment: float
    since: tuple[int, float] | None = None

    def after(self, step: int, now: float) -> "_Pace":
        """The pace when a later step is reported."""
        return replace(self, last_step=step, moment=now, since=self.since or (step, now))

    @property
    def is_without_start(self) -> bool:
        """Whether two steps have been reported, so that their distance says how fast the run is."""
        return self.since is not None and self.last_step > self.since[0]

    @property
    def seconds_per_step(self) -> float | None:
        """Evaluations included, and the start too before a second step is reported; None before the first one."""
        if self.since is None:
            return None
        step, moment = self.since
        if self.is_without_start:
            return (self.moment - moment) / (self.last_step - step)
        return (self.moment - self.started) / (self.last_step - self.first_step)
