"""Decides where the next run may start: on a GPU that is idle or has room beside our own runs, or on the cores.

What other people's jobs occupy on a GPU is known exactly only while none of our runs is there. From then on it is kept
between two bounds that each look gives: at most all that is in use, at least what our own runs' reservations leave
unexplained.
"""

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from utils.errors import UserError
from utils.launch.gpu_watcher import GpuWatcher
from utils.launch.gpus import Gpu, ask_torch
from utils.machine import available_cores

CPU = "cpu"
MOST_RUNS_PER_GPU = 4  # where the user names no number
MARGIN = 1.1  # of a reservation over the measured peak
CONTEXT_MEMORY = 600.0  # MB that a process takes on a GPU beside its tensors: CUDA's context and kernels
SETTLING = 2.0  # seconds in which the load of a run that is over still shows


@dataclass(frozen=True, eq=False)
class Place:
    """Where one run may be.

    Attributes:
        label: for people.
        environment: variables that the run's process needs.
        arguments: words that its command line needs.
        device: the id of its GPU, `cpu` on the cores.
        memory_mb: peak that the run is known to reach there; None if nothing is known.
    """

    label: str
    environment: dict[str, str]
    arguments: tuple[str, ...]
    device: str
    memory_mb: float | None = None


@dataclass
class _Device:
    """A GPU, or the cores together, with our runs there.

    Attributes:
        gpu: as the last look saw it.
        limit: runs that may share it.
        by_memory: whether memory decides how many, the limit being only the most.
        reserved: MB of each of our runs, 0 where nothing is known.
        foreign: MB that others are believed to use.
        answers: whether the last look found it.
        left: when the last of our runs went away.
    """

    gpu: Gpu
    limit: int
    by_memory: bool
    reserved: dict[Place, float] = field(default_factory=dict)
    foreign: float = 0.0
    answers: bool = True
    left: float = float("-inf")

    @property
    def room(self) -> float | None:
        """MB that our runs may have in all; None if unknown."""
        return None if self.gpu.memory_total is None else self.gpu.memory_total - self.foreign

    @property
    def most(self) -> int:
        """Runs that may be there at once: one on a GPU of unknown memory, unless the user names a number."""
        return 1 if self.by_memory and self.room is None else self.limit

    @property
    def is_full(self) -> bool:
        """Whether the number of our runs alone forbids another one."""
        return len(self.reserved) >= self.most

    def see(self, gpu: Gpu) -> None:
        """Take over what a look has found."""
        self.gpu, self.answers = gpu, True
        if gpu.memory_used is not None:
            unexplained = max(0.0, gpu.memory_used - sum(self.reserved.values()))
            self.foreign = min(max(self.foreign, unexplained), gpu.memory_used)

    def is_idle(self, threshold: float, now: float) -> bool:
        """Whether others leave it alone. Its load tells that only while none of our own runs makes it."""
        if self.gpu.memory_total is not None and self.foreign >= threshold * self.gpu.memory_total:
            return False
        load_is_ours = bool(self.reserved) or now < self.left + SETTLING
        return load_is_ours or self.gpu.load is None or self.gpu.load < threshold

    def reservation(self, memory_mb: float | None) -> float:
        """MB for a run of that peak; an equal share if it is unknown."""
        if memory_mb is not None:
            return MARGIN * (memory_mb + CONTEXT_MEMORY)
        return 0.0 if self.room is None else self.room / self.limit

    def fits(self, memory_mb: float | None, room: float | None, most: float | None) -> bool:
        """Whether a run of that peak fits beside ours into `room` MB; more than `most` MB are not asked for."""
        if not self.by_memory or room is None or most is None:
            return True
        needed = min(self.reservation(memory_mb), most)
        return sum(self.reserved.values()) + needed <= room + 1.0  # MB, for the rounding of shares

    def might_take(self, memory_mb: float | None) -> bool:
        """Whether it would take the run if others went away: where our own runs are the reason, no look can help."""
        return not self.is_full and self.fits(memory_mb, self.gpu.memory_total, self.gpu.memory_total)


@dataclass
class Devices:
    """Gives places to runs, and takes them back.

    A GPU takes a run if others use less than the threshold of its memory and, where none of our runs is on it, of its
    load, and if the run fits beside ours. Each run reserves its estimate until it has reported its peak. A run that no
    GPU has the memory for may try where there is most. Without a GPU, runs share the cores.

    Attributes:
        usage_threshold: share of memory and load below which a GPU is idle, above 0, at most 1.
        runs_per_gpu: `auto`, as many as their memory allows up to `MOST_RUNS_PER_GPU`; or a number, which is taken at
            its word.
        jobs: runs at a time in all; None: one for each `threads` cores, unless `runs_per_gpu` is a number.
        threads: of one run.
        waitsecs: seconds for which a look is good, unless a run ends.
        say: is told what changes.
        look: gives the usable GPUs; None: those within the caller's `CUDA_VISIBLE_DEVICES`.
        interpreter: the Python of the runs, whose torch is asked whether it can use the GPUs.
        clock: seconds, monotonic.

    Raises:
        UserError: an option that is out of its range.
    """

    usage_threshold: float = 0.3
    runs_per_gpu: str | int = "auto"
    jobs: int | None = None
    threads: int = 1
    waitsecs: float = 5.0
    say: Callable[[str], None] = print
    look: Callable[[], list[Gpu]] | None = None
    interpreter: str = sys.executable
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        if not 0 < self.usage_threshold <= 1:
            raise UserError(f"--usage_threshold {self.usage_threshold}: give a share above 0, at most 1")
        for name, low in {"jobs": 1, "threads": 1, "waitsecs": 0}.items():
            value = getattr(self, name)
            if value is not None and not value >= low:
                raise UserError(f"--{name} {value}: give {low} or more")
        self._runs_per_gpu = _read_runs_per_gpu(self.runs_per_gpu)
        self._look = self.look or GpuWatcher(self.say, judge=partial(ask_torch, self.interpreter)).look
        self._devices: dict[str, _Device] = {}
        self._look_again_at = float("-inf")

    @property
    def num_places(self) -> int:
        """Runs that may go on at the same time, at most."""
        self._look_if_due()
        return int(min(self._most, sum(device.most for device in self._devices.values() if device.answers)))

    @property
    def _most(self) -> float:
        """Runs that may go on at the same time, wherever; each keeps `threads` cores busy, on a GPU too."""
        if self.jobs is not None:
            return self.jobs
        is_typed = self._runs_per_gpu is not None and CPU not in self._devices
        return math.inf if is_typed else max(1, available_cores() // self.threads)

    @property
    def kinds(self) -> set[str]:
        """What the runs will be on: `cpu`, or the names of the GPUs."""
        self._look_if_due()
        return {CPU if device.gpu.id == CPU else device.gpu.name or "" for device in self._devices.values()}

    def describe(self) -> str:
        """One line about where the runs will go."""
        self._look_if_due()
        if CPU in self._devices:
            threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
            return f"no GPU: {self._devices[CPU].limit} at a time on the cores, with {threads} each"
        names = [device.gpu.name or "of unknown kind" for device in self._devices.values()]
        kinds = ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))
        most = max(device.most for device in self._devices.values())
        number = self._runs_per_gpu or (f"up to {most}" if most > 1 else most)
        places = sum(device.most for device in self._devices.values())
        in_all = f", {self._most} in all" if self._most < places else ""
        return f"{kinds}: {number} at a time on each{in_all}"

    def place(self, memory_mb: float | None = None) -> Place | None:
        """A place for a run, None if there is none now. May look at the GPUs, which takes as long as `nvidia-smi`.

        Args:
            memory_mb: what the run is known to need on a GPU, as its record gives the peak of an equal one; None if
                nothing is known.
        """
        if self._devices and not any(device.might_take(memory_mb) for device in self._devices.values()):
            return None
        if self._devices and sum(len(device.reserved) for device in self._devices.values()) >= self._most:
            return None
        self._look_if_due()
        free = self._free(memory_mb)
        if not free:
            return None
        device = min(free, key=lambda each: (len(each.reserved), each.gpu.load or 0.0, -(each.room or 0.0)))
        return self._take(device, memory_mb)

    def release(self, place: Place) -> None:
        """The run of a place is over. Raises KeyError if the place has been released before."""
        device = self._devices[place.device]
        del device.reserved[place]
        device.left = self.clock()
        self._look_again_at = float("-inf")

    def report_peak(self, place: Place, memory_mb: float, may_grow: bool = False) -> None:
        """The largest memory that a run took on its GPU replaces what it has reserved, if it still holds the place.

        Args:
            place: of the run.
            memory_mb: what it took so far; what equal runs are known to reach stays reserved.
            may_grow: whether its steps so far were not yet all that it will do, so that nothing is given up.
        """
        device = self._devices[place.device]
        if place in device.reserved:
            reserved = device.reserved[place]
            needed = device.reservation(max(memory_mb, place.memory_mb or 0.0))
            needed = max(needed, reserved) if may_grow else needed
            device.foreign = max(0.0, device.foreign - max(0.0, needed - reserved))
            device.reserved[place] = needed

    def fewer_neighbours(self, place: Place) -> None:
        """The run of a place, released or not, was out of memory: fewer runs share its device from now on."""
        device = self._devices[place.device]
        neighbours = len(device.reserved) - (place in device.reserved)
        device.limit = max(1, min(device.limit - 1, neighbours or device.limit))

    def _free(self, memory_mb: float | None) -> list[_Device]:
        now = self.clock()
        usable = [device for device in self._devices.values() if device.answers]
        most = max((device.room or 0.0 for device in usable), default=0.0)
        idle = [device for device in usable if not device.is_full and device.is_idle(self.usage_threshold, now)]
        return [device for device in idle if device.fits(memory_mb, device.room, most)]

    def _take(self, device: _Device, memory_mb: float | None) -> Place:
        if device.gpu.id == CPU:
            place = Place("CPU", {}, ("--device", "cpu"), CPU, memory_mb)
        else:
            visible = {"CUDA_VISIBLE_DEVICES": device.gpu.id}
            place = Place(device.gpu.label, visible, ("--device", "cuda"), device.gpu.id, memory_mb)
        device.reserved[place] = device.reservation(memory_mb)
        return place

    def _look_if_due(self) -> None:
        if CPU in self._devices or self.clock() < self._look_again_at:
            return
        found = {gpu.id: gpu for gpu in self._look()}
        self._look_again_at = self.clock() + self.waitsecs
        if not self._devices:
            self._settle(bool(found))
        for device in self._devices.values():
            if device.answers and device.gpu.id not in (CPU, *found):
                device.answers = False
                self.say(f"{device.gpu.label} does not answer any more: no further run starts there")
        for gpu in found.values():
            self._see(gpu)

    def _settle(self, with_gpu: bool) -> None:
        """The first look decides whether the runs go to GPUs or to the cores."""
        if not with_gpu:
            jobs = self.jobs or max(1, available_cores() // self.threads)
            self._devices[CPU] = _Device(Gpu(CPU), jobs, by_memory=False)
        if not with_gpu and self._runs_per_gpu is not None:
            self.say("--runs_per_gpu has no effect: there is no GPU; see --jobs")

    def _see(self, gpu: Gpu) -> None:
        if gpu.id not in self._devices:
            if gpu.is_exclusive and (self._runs_per_gpu or 1) > 1:
                self.say(f"{gpu.label} takes one run at a time: its compute mode is Exclusive_Process")
            limit = 1 if gpu.is_exclusive else self._runs_per_gpu or MOST_RUNS_PER_GPU
            self._devices[gpu.id] = _Device(gpu, limit, by_memory=self._runs_per_gpu is None)
        elif not self._devices[gpu.id].answers:
            self.say(f"{gpu.label} answers again")
        self._devices[gpu.id].see(gpu)


def _read_runs_per_gpu(value: str | int) -> int | None:
    """The number, None for `auto`."""
    if value == "auto":
        return None
    try:
        number = int(value)
    except ValueError:
        number = 0
    if number < 1:
        raise UserError(f"--runs_per_gpu {value}: give auto, or 1 or more")
    return number
