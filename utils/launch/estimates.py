"""What a run will take, as the records of other runs tell: time, and memory on its GPU. Nothing here imports torch."""

import contextlib
import json
import math
import os
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.config.configuration import Configuration, readable_name
from utils.config.registry import BACKBONES, DATASETS
from utils.errors import UserError
from utils.launch.steps import Steps
from utils.machine import cpu_name
from utils.records.record import Record

if TYPE_CHECKING:
    from utils.launch.plan import Job

_MEGABYTE = 2**20
_SAMPLES = 3  # runs of a kind that are read to learn how fast its steps are
_DAMAGE = (UserError, OSError, LookupError, TypeError, ValueError, AttributeError, RecursionError)


@dataclass(frozen=True)
class _Finished:
    """What a complete record tells.

    Attributes:
        values: the options it ran with.
        plugins: digests of the plug-in files, sorted.
        data: fingerprint of its data.
        environment: the machine it ran on.
        seconds: of start, training and evaluation, as far as recorded.
        other_seconds: of start and of measuring the norm layers, which more steps do not lengthen.
        steps: that it trained.
        memory_mb: the largest that it had on its GPU; None on the CPU.
    """

    values: dict[str, Any]
    plugins: tuple[str, ...]
    data: str
    environment: dict[str, Any]
    seconds: float
    other_seconds: float
    steps: int
    memory_mb: float | None


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
        self._read: dict[str, list[_Finished]] = {}
        self._equal: dict[tuple[str, tuple[str, ...]], dict[str, list[_Finished]]] = {}
        self._sampled: dict[str, list[_Finished]] = {}
        self._by_step: dict[tuple[Any, ...], dict[str, list[float]]] = {}
        self.steps = Steps()

    def seconds(self, job: "Job") -> float | None:
        """Mean time in seconds of equal runs on this kind of machine; None if there is none."""
        return _mean(run.seconds for run in self._runs_like(job) if self._is_comparable(run.environment))

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
        return max((run.memory_mb for run in self._runs_like(job) if run.memory_mb is not None), default=None)

    def _is_comparable(self, environment: dict[str, Any]) -> bool:
        if environment.get("cpu") != cpu_name():
            return False
        if self._threads is not None and environment.get("threads") != self._threads:
            return False
        return self._devices is None or environment.get("device") in self._devices

    def _runs_like(self, job: "Job") -> list[_Finished]:
        kind = _kind(readable_name(job.config))
        index = (kind, tuple(sorted(job.config.options)))
        if index not in self._equal:
            self._equal[index] = self._by_likeness(job.config, kind)
        config = job.config
        return self._equal[index].get(
            _likeness(config.values, config.parts.unreleased_code, job.data.fingerprint, config), []
        )

    def _by_likeness(self, config: Configuration, kind: str) -> dict[str, list[_Finished]]:
        runs: dict[str, list[_Finished]] = defaultdict(list)
        for run in self._runs_of(kind):
            with contextlib.suppress(*_DAMAGE):  # values of kinds that a method cannot read
                runs[_likeness(run.values, run.plugins, run.data, config)].append(run)
        return runs

    def _runs_of(self, kind: str) -> list[_Finished]:
        if kind not in self._read:
            folders = self._found().get(kind, [])
            self._read[kind] = [run for run in map(_read, folders) if run is not None]
        return self._read[kind]

    def _speeds(self, job: "Job") -> dict[str, list[float]]:
        """Seconds per step of runs in networks like that of a job, by method."""
        step = _step(job.config.values, job.data.fingerprint)
        if step not in self._by_step:
            speeds: dict[str, list[float]] = defaultdict(list)
            for run in self._samples(job.config.nl):
                if run.steps and self._is_comparable(run.environment) and _step(run.values, run.data) == step:
                    speeds[str(run.values.get("model"))].append((run.seconds - run.other_seconds) / run.steps)
            self._by_step[step] = speeds
        return self._by_step[step]

    def _samples(self, norm: str) -> list[_Finished]:
        """Some runs of every kind whose name tells of a norm layer."""
        if norm not in self._sampled:
            folders = [
                each for kind, found in self._found().items() if f"-{norm}-" in kind for each in found[:_SAMPLES]
            ]
            self._sampled[norm] = [run for run in map(_read, folders) if run is not None]
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


def _likeness(values: dict[str, Any], plugins: tuple[str, ...], data: str, config: Configuration) -> str:
    """The same text for runs whose results differ by the seed alone; `config` says which options count."""
    used = config.used(values)
    counting = {
        name: used.get(name, option.default)
        for name, option in config.options.items()
        if option.changes_result and name != "seed"
    }
    return json.dumps([counting, sorted(plugins), data], sort_keys=True)


def _step(values: dict[str, Any], data: str) -> tuple[Any, ...]:
    """What the time of a step depends on most: images, layers, and the backbone with its own options."""
    size, of_backbone = None, []
    with contextlib.suppress(UserError):  # the dataset or the backbone of a plug-in that is not loaded
        size = DATASETS.get(str(values.get("dataset"))).image_size
        of_backbone = [option.name for option in BACKBONES.get(str(values.get("backbone"))).options]
    names = ("nl", "backbone", *of_backbone, "batch_size", "precision")
    return (size or data, *(values.get(name) for name in names))


def _read(folder: Path) -> _Finished | None:
    record = Record(folder)
    try:
        config, result = record.read_config(), record.read_result()
        device_bytes = result.get("peak_memory", {}).get("device_bytes")
        return _Finished(
            dict(config["values"]),
            tuple(map(str, config["plugins"])),
            str(config["data"]),
            dict(config["environment"]),
            sum(_amount(seconds) for seconds in result["timings"].values()),
            sum(_amount(result["timings"].get(f"{kind}_seconds", 0.0)) for kind in ("start", "norms")),
            int(_amount(result["steps"])),
            None if device_bytes is None else _amount(device_bytes) / _MEGABYTE,
        )
    except _DAMAGE:
        return None


def _mean(numbers: Iterable[float]) -> float | None:
    found = list(numbers)
    return sum(found) / len(found) if found else None


def _amount(value: Any) -> float:
    """A finite number from 0 on. Raises ValueError or TypeError for anything else."""
    number = float(value)
    if isinstance(value, str | bool) or not (math.isfinite(number) and number >= 0):
        raise ValueError("not an amount")
    return number
