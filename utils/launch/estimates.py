"""What runs will take, as the records of other runs tell: time, and memory on their GPU; and what a plan costs.

Nothing here imports torch.
"""

import contextlib
import json
import os
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.config.configuration import readable_name
from utils.config.registry import BACKBONES, DATASETS
from utils.errors import UserError
from utils.launch.steps import Steps
from utils.machine import cpu_name
from utils.records.collect import Run, read_run

if TYPE_CHECKING:
    from utils.launch.plan import Job

_MEGABYTE = 2**20
_SAMPLES = 3  # runs of a kind that are read to learn how fast its steps are


class Estimates:
    """What runs that are equal but for the seed took, over all groups of a results folder; else how fast others were.

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
        self._by_step: dict[tuple[Any, ...], dict[str, list[float]]] = {}
        self.steps = Steps()

    def seconds(self, job: "Job") -> float | None:
        """Mean time in seconds of equal runs on this kind of machine; None if there is none."""
        return _mean(_seconds(run) for run in self._runs_like(job) if self._is_comparable(run.environment))

    def rough_seconds(self, job: "Job") -> float | None:
        """Time in seconds by the speed of other runs on this kind of machine, None if there is none.

        They had the same norm layer in the same network, batches of the same size and images of the same size; those
        of the same method tell it alone if there are some. A step of re-tuning norm layers counts as one of training.
        """
        counts = (self.steps.of(job), self.steps.of_retuning(job))
        if None in counts:
            return None
        speeds = self._speeds(job)
        seconds_per_step = _mean(speeds.get(job.config.model) or [each for every in speeds.values() for each in every])
        return None if seconds_per_step is None else sum(counts) * seconds_per_step

    def memory_mb(self, job: "Job") -> float | None:
        """Largest memory in MB (2^20 bytes) that an equal run had on a GPU; None if there is none."""
        found = [_memory_mb(run) for run in self._runs_like(job)]
        return max((memory for memory in found if memory is not None), default=None)

    def _is_comparable(self, environment: Mapping[str, Any]) -> bool:
        if environment.get("cpu") != cpu_name():
            return False
        if self._threads is not None and environment.get("threads") != self._threads:
            return False
        return self._devices is None or environment.get("device") in self._devices

    def _runs_like(self, job: "Job") -> list[Run]:
        config, kind = job.config, _kind(readable_name(job.config))
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
            folders = self._found().get(kind, [])
            self._read[kind] = _complete_runs(folders)
        return self._read[kind]

    def _speeds(self, job: "Job") -> dict[str, list[float]]:
        """Seconds per step of runs in networks like that of a job, by method."""
        step = _step(job.config.values, job.data.fingerprint)
        if step not in self._by_step:
            speeds: dict[str, list[float]] = defaultdict(list)
            for run in self._samples(job.config.nl):
                is_alike = self._is_comparable(run.environment) and _step(run.values, run.known_config.data) == step
                result = run.known_result
                if result.steps and is_alike:
                    # Of start and of measuring the norm layers, which more steps do not lengthen.
                    other = sum(result.seconds.get(kind, 0.0) for kind in ("start", "norms"))
                    speeds[str(run.values.get("model"))].append((_seconds(run) - other) / result.steps)
            self._by_step[step] = speeds
        return self._by_step[step]

    def _samples(self, norm: str) -> list[Run]:
        """Some runs of every kind whose name tells of a norm layer."""
        if norm not in self._sampled:
            folders = [
                each for kind, found in self._found().items() if f"-{norm}-" in kind for each in found[:_SAMPLES]
            ]
            self._sampled[norm] = _complete_runs(folders)
        return self._sampled[norm]

    def _found(self) -> dict[str, list[Path]]:
        """The folders of complete runs, by the kind of run that their names tell."""
        if self._folders is None:
            self._folders = defaultdict(list)
            for folder in _complete_folders(self._results_dir):
                self._folders[_kind(folder.name)].append(folder)
        return self._folders


def _complete_folders(results_dir: Path) -> Iterator[Path]:
    """Every run's folder that has a result; what cannot be entered is left out."""
    for folder, inner, names in os.walk(results_dir):
        if "config.json" in names:
            inner.clear()  # what a run keeps beside its record, such as a tracker's files, may be many
            if "result.json" in names:
                yield Path(folder)


def _kind(name: str) -> str:
    """The readable name of a run without its seed and what follows."""
    return name.rpartition("-s")[0]


def _likeness(values: list[Any], plugins: Iterable[str], data: str) -> str:
    """The same text for runs whose results differ by the seed alone, of the values of the options that count."""
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
    """Those of the folders that tell of a complete run on a known machine."""
    runs = map(read_run, folders)
    return [run for run in runs if run.result and run.result.seconds and run.environment]


def _seconds(run: Run) -> float:
    """What a complete run took in all."""
    return sum(run.known_result.seconds.values())


def _memory_mb(run: Run) -> float | None:
    """The largest that it had on its GPU; None on the CPU."""
    device_bytes = run.known_result.peak_memory.get("device_bytes")
    return None if device_bytes is None else device_bytes / _MEGABYTE


def _mean(numbers: Iterable[float]) -> float | None:
    found = list(numbers)
    return sum(found) / len(found) if found else None


@dataclass(frozen=True)
class Cost:
    """Of the runs that are still to be done.

    Attributes:
        num_open: how many there are, with those that will follow a search.
        num_steps: training steps of all of them; None if those of one cannot be told before it runs.
        is_exact: whether these are exact.
        known: seconds of each run of which complete runs that are equal to it tell.
        rough: seconds of each further one of which the speed of other runs tells.
        num_retuning_steps: steps in which copies of their norm layers are trained on, beside those; None as for them.
    """

    num_open: int
    num_steps: int | None
    is_exact: bool
    known: tuple[float, ...]
    rough: tuple[float, ...]
    num_retuning_steps: int | None = 0

    @property
    def is_rough(self) -> bool:
        """Whether the time of some run is told by the speed of other runs."""
        return bool(self.rough)

    def seconds(self, num_places: int) -> float | None:
        """Seconds until all is over with so many runs at a time, None if nothing is known.

        A run of which nothing is known counts as the mean of the others.
        """
        told = (*self.known, *self.rough)
        if not self.num_open:
            return 0.0
        return max(sum(told) * self.num_open / len(told) / num_places, *told) if told else None

    def lines(self, num_places: int) -> list[str]:
        """The same for people."""
        if not self.num_open:
            return []
        return [*self._work_lines(), self._time_line(num_places)]

    def _work_lines(self) -> list[str]:
        if self.num_steps is None:
            return []
        line = f"work: {count_in_words(self.num_steps, self.is_exact)}"
        if self.num_retuning_steps:
            line += f" and {_number(self.num_retuning_steps, self.is_exact)} steps of re-tuning norm layers"
        return [line]

    def _time_line(self, num_places: int) -> str:
        seconds = self.seconds(num_places)
        if seconds is None:
            return "time: no run like these is complete yet; it is estimated once the first ones are under way"
        if self.known:
            share = f"{len(self.known)} of these {self.num_open}" if len(self.known) < self.num_open else "these"
            reasons = [f"from complete runs like {share}"]
        else:
            reasons = []
        if self.rough:
            reasons.append("rough: from the speed of other runs on this machine")
        return f"estimated {_duration(seconds)} on {num_places} at a time, {'; '.join(reasons)}"


def cost_of(jobs: Sequence["Job"], num_following: int, estimates: Estimates) -> Cost:
    """What open jobs will take.

    Args:
        jobs: all of them that are known.
        num_following: runs that will follow them, each of which counts as the mean of the others.
        estimates: of what each takes.
    """
    num_open = len(jobs) + num_following
    known, rough = [], []
    for job in jobs:
        seconds = estimates.seconds(job)
        if seconds is not None:
            known.append(seconds)
        elif (guess := estimates.rough_seconds(job)) is not None:
            rough.append(guess)
    return Cost(
        num_open,
        _total([estimates.steps.of(job) for job in jobs], num_open),
        is_exact=not num_following and all(map(estimates.steps.are_exact, jobs)),
        known=tuple(known),
        rough=tuple(rough),
        num_retuning_steps=_total([estimates.steps.of_retuning(job) for job in jobs], num_open),
    )


def _total(numbers: Sequence[int | None], num_runs: int) -> int | None:
    """Of so many runs, of which some are told; None if one of these cannot be."""
    if not num_runs:
        return 0
    known = [number for number in numbers if number is not None]
    return None if not known or len(known) < len(numbers) else round(sum(known) * num_runs / len(known))


def count_in_words(num_steps: int, is_exact: bool) -> str:
    """`17,400 training steps`; what is not exact, or too long to be read, is rounded to three digits."""
    return f"{_number(num_steps, is_exact)} training step{'s' if num_steps != 1 or not is_exact else ''}"


def _number(num_steps: int, is_exact: bool) -> str:
    if num_steps < 1_000_000 and is_exact:
        return f"{num_steps:,}"
    rounded = int(float(f"{num_steps:.2e}"))
    return "about " + (f"{rounded / 1e6:g} million" if rounded >= 1_000_000 else f"{rounded:,}")


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"
