"""What a run will take, as the records of equal runs tell: time, and memory on its GPU. Nothing here imports torch."""

import contextlib
import json
import math
import os
from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.configuration import Configuration, readable_name
from utils.errors import UserError
from utils.machine import cpu_name
from utils.record import Record

_MEGABYTE = 2**20
_DAMAGE = (UserError, OSError, LookupError, TypeError, ValueError, AttributeError, RecursionError)


@dataclass(frozen=True)
class _Finished:
    """What a complete record tells.

    Attributes:
        values: the options it ran with.
        plugins: digests of the plug-in files, sorted.
        environment: the machine it ran on.
        seconds: of start, training and evaluation, as far as recorded.
        memory_mb: the largest that it had on its GPU; None on the CPU.
    """

    values: dict[str, Any]
    plugins: tuple[str, ...]
    environment: dict[str, Any]
    seconds: float
    memory_mb: float | None


class Estimates:
    """What runs that are equal but for the seed took, over all groups of a results folder.

    A record is read once, when a run of its kind is first asked about; a damaged one is left out.

    Args:
        results_dir: where the groups are.
        devices: the kinds of device whose times count, `cpu` or names of GPUs; None: any.
        threads: of a run whose time counts; None: any number.
    """

    def __init__(self, results_dir: Path, devices: Collection[str] | None = None, threads: int | None = None) -> None:
        self._results_dir = results_dir
        self._devices = devices
        self._threads = threads
        self._folders: dict[str, list[Path]] | None = None
        self._read: dict[str, list[_Finished]] = {}
        self._equal: dict[tuple[str, tuple[str, ...]], dict[str, list[_Finished]]] = {}

    def seconds(self, config: Configuration) -> float | None:
        """Mean time in seconds of equal runs on this kind of machine; None if there is none."""
        times = [run.seconds for run in self._runs_like(config) if self._is_comparable(run.environment)]
        return sum(times) / len(times) if times else None

    def memory_mb(self, config: Configuration) -> float | None:
        """Largest memory in MB (2^20 bytes) that an equal run had on a GPU; None if there is none."""
        return max((run.memory_mb for run in self._runs_like(config) if run.memory_mb is not None), default=None)

    def _is_comparable(self, environment: dict[str, Any]) -> bool:
        if environment.get("cpu") != cpu_name():
            return False
        if self._threads is not None and environment.get("threads") != self._threads:
            return False
        return self._devices is None or environment.get("device") in self._devices

    def _runs_like(self, config: Configuration) -> list[_Finished]:
        kind = _kind(readable_name(config))
        index = (kind, tuple(sorted(config.options)))
        if index not in self._equal:
            self._equal[index] = self._by_likeness(config, kind)
        return self._equal[index].get(_likeness(config.values, config.parts.plugins, config), [])

    def _by_likeness(self, config: Configuration, kind: str) -> dict[str, list[_Finished]]:
        runs: dict[str, list[_Finished]] = defaultdict(list)
        if kind not in self._read:
            folders = self._found().get(kind, [])
            self._read[kind] = [run for run in map(_read, folders) if run is not None]
        for run in self._read[kind]:
            with contextlib.suppress(*_DAMAGE):  # values of kinds that a method cannot read
                runs[_likeness(run.values, run.plugins, config)].append(run)
        return runs

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


def _likeness(values: dict[str, Any], plugins: tuple[str, ...], config: Configuration) -> str:
    """The same text for runs whose results differ by the seed alone; `config` says which options count."""
    canonical = config.parts.method.canonical(values)
    counting = {
        name: canonical.get(name, option.default)
        for name, option in config.options.items()
        if option.changes_result and name != "seed"
    }
    return json.dumps([counting, sorted(plugins)], sort_keys=True)


def _read(folder: Path) -> _Finished | None:
    record = Record(folder)
    try:
        config, result = record.read_config(), record.read_result()
        device_bytes = result.get("peak_memory", {}).get("device_bytes")
        return _Finished(
            dict(config["values"]),
            tuple(map(str, config["plugins"])),
            dict(config["environment"]),
            sum(_amount(seconds) for seconds in result["timings"].values()),
            None if device_bytes is None else _amount(device_bytes) / _MEGABYTE,
        )
    except _DAMAGE:
        return None


def _amount(value: Any) -> float:
    """A finite number from 0 on. Raises ValueError or TypeError for anything else."""
    number = float(value)
    if isinstance(value, str | bool) or not (math.isfinite(number) and number >= 0):
        raise ValueError("not an amount")
    return number
