"""Decides where the next run may start: on a GPU that is idle or has room beside our own runs, or on the CPU.

The memory that other processes use on a GPU is known exactly only while none of our runs is there. From then on each
look at the GPUs gives two bounds for it: at most all that is in use, at least what our own runs' reservations do not
explain.
"""

import math
import sys
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import partial

from utils.launch.gpu_watcher import GpuWatcher
from utils.launch.gpus import Gpu, ask_torch
from utils.launch.packing import AT_ONCE, Packing
from utils.machine import available_cores, default_mps_percent, has_mps
from utils.records.progress import Progress

CPU = "cpu"
MOST_RUNS_PER_GPU = 16  # with `auto`
EXPECTED_RUNS_PER_GPU = 8  # with `auto`, when multiprocessors are divided: how many are worthwhile is known later
TIMES_DIVIDED = 2  # how often all multiprocessors of a GPU are given away: one run uses its own while another waits
UNKNOWN_SHARE = 4  # runs of unknown memory that share a GPU
MARGIN = 1.1  # of a reservation over the measured peak
CONTEXT_MEMORY = 600.0  # MiB that a process takes on a GPU beside its tensors: CUDA's context and kernels
LOAD_DELAY = 2.0  # seconds for which the load of a finished run still shows
REST = 10.0  # seconds for which a GPU is left alone that fails, twice as many for each further failure in a row
LONGEST_REST = 120.0


@dataclass(frozen=True, eq=False)
class Slot:
    """Room for one run on a device.

    Attributes:
        label: the device's name on the screen.
        environment: variables to set for the run's process.
        arguments: options to add to its command line.
        device: the id of its GPU, or `cpu`.
        memory_mb: peak memory that the run is known to reach there; None if unknown.
        taken: when, by the clock of the devices.
    """

    label: str
    environment: dict[str, str]
    arguments: tuple[str, ...]
    device: str
    memory_mb: float | None = None
    taken: float = 0.0


@dataclass
class _Device:
    """A GPU, or the CPU with all its cores, and our runs there.

    Attributes:
        gpu: its state at the last look.
        limit: how many runs may share it.
        packing: of GPUs of its model, which decides with its memory how many runs it takes, up to the limit; None: the
            limit alone does.
        reserved: MiB reserved for each of our runs, 0 where nothing is known.
        foreign: estimate of the MiB that other processes use.
        answers: whether the last look found it.
        training: our runs there that have reported how far they are; the others are starting.
        left: when the last of our runs there ended.
        failures: our runs that crashed there or were refused, since the last one that did well.
        rested: when it was last left alone.
        rests_until: when it may take a run again.
    """

    gpu: Gpu
    limit: int
    packing: Packing | None
    reserved: dict[Slot, float] = field(default_factory=dict)
    foreign: float = 0.0
    answers: bool = True
    training: set[Slot] = field(default_factory=set)
    left: float = float("-inf")
    failures: int = 0
    rested: float = float("-inf")
    rests_until: float = float("-inf")

    @property
    def room(self) -> float | None:
        """MiB that all our runs together may use; None if unknown."""
        return None if self.gpu.memory_total is None else self.gpu.memory_total - self.foreign

    @property
    def most(self) -> int:
        """How many runs it takes at a time: one on a GPU of unknown memory, unless the user gives a number."""
        if self.packing is None:
            return self.limit
        return 1 if self.room is None else min(self.limit, self.packing.most)

    @property
    def is_full(self) -> bool:
        """Whether it already has as many of our runs as it takes, whatever its memory."""
        return len(self.reserved) >= self.most

    def see(self, gpu: Gpu) -> None:
        """Update the state after a look at the GPUs."""
        self.gpu, self.answers = gpu, True
        if gpu.memory_used is not None:
            unexplained = max(0.0, gpu.memory_used - sum(self.reserved.values()))
            self.foreign = min(max(self.foreign, unexplained), gpu.memory_used)

    def is_idle(self, threshold: float, now: float) -> bool:
        """Whether no one else is using it; its load counts only while none of our own runs causes it."""
        return not self.use_by_others(threshold, now)

    def use_by_others(self, threshold: float, now: float) -> str:
        """How others use it more than an idle GPU is used, in words; empty if they do not."""
        if self.gpu.memory_total is not None and self.foreign >= threshold * self.gpu.memory_total:
            return f"others hold {self.foreign:,.0f} of its {self.gpu.memory_total:,.0f} MiB"
        load_is_ours = bool(self.reserved) or now < self.left + LOAD_DELAY
        if load_is_ours or self.gpu.load is None or self.gpu.load < threshold:
            return ""
        return f"others keep it busy for {100 * self.gpu.load:.0f} % of the time"

    def reservation(self, memory_mb: float | None) -> float:
        """MiB to reserve for a run with that peak; an equal share if the peak is unknown."""
        if memory_mb is not None:
            return MARGIN * (memory_mb + CONTEXT_MEMORY)
        return 0.0 if self.room is None else self.room / min(self.limit, UNKNOWN_SHARE)

    def fits(self, memory_mb: float | None, room: float | None, most: float | None) -> bool:
        """Whether a run with that peak fits beside ours into `room` MiB; it is never asked for more than `most` MiB."""
        if self.packing is None or room is None or most is None:
            return True
        needed = min(self.reservation(memory_mb), most)
        return sum(self.reserved.values()) + needed <= room + 1.0  # MiB, for the rounding of shares

    def can_hold(self, memory_mb: float | None) -> bool:
        """Whether a run with that peak would fit there if it were alone with what others use."""
        if self.packing is None or self.room is None or memory_mb is None:
            return True
        return self.reservation(memory_mb) <= self.room

    def might_take(self, memory_mb: float | None) -> bool:
        """Whether it would take the run if no one else used it; if not, looking at the GPUs again cannot help."""
        return not self.is_full and self.fits(memory_mb, self.gpu.memory_total, self.gpu.memory_total)


@dataclass
class Devices:
    """Gives slots to runs, and takes them back.

    A GPU takes a run if other processes use less than the threshold of its memory and, where none of our runs is on it,
    of its load, and if the run fits beside ours. Each run reserves its estimated memory until it has reported its peak.
    A run too large for every GPU may try the one with the most memory. Without a GPU, runs share the CPU.

    Attributes:
        usage_threshold: fraction of memory and load below which a GPU is idle, above 0, at most 1.
        runs_per_gpu: `auto`, as many as the memory allows and as make the runs end faster in all, at most
            `MOST_RUNS_PER_GPU`; or a number, which is used as given.
        jobs: runs at a time in all; None: one for each `threads` cores, unless `runs_per_gpu` is a number.
        threads: CPU threads of one run.
        num_runs: of the plan, complete or not; None: any number.
        waitsecs: seconds before the GPUs are looked at again, unless a run ends.
        say: called with one line about every change.
        look: returns the usable GPUs; None: those in the caller's `CUDA_VISIBLE_DEVICES`.
        interpreter: the Python of the runs, whose torch decides whether it can use the GPUs.
        clock: returns seconds, monotonic.
    """

    usage_threshold: float = 0.3
    runs_per_gpu: str | int = "auto"
    jobs: int | None = None
    threads: int = 1
    num_runs: int | None = None
    waitsecs: float = 5.0
    say: Callable[[str], None] = print
    look: Callable[[], list[Gpu]] | None = None
    interpreter: str = sys.executable
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self._runs_per_gpu = None if self.runs_per_gpu == "auto" else int(self.runs_per_gpu)
        self._look = self.look or GpuWatcher(self.say, judge=partial(ask_torch, self.interpreter)).look
        self._devices: dict[str, _Device] = {}
        self._packings: dict[str | None, Packing] = {}  # by the model of the GPU
        self._look_again_at = float("-inf")

    @property
    def num_slots(self) -> int:
        """How many runs there may be at a time."""
        self._look_if_due()
        return int(min(self._most, sum(device.most for device in self._devices.values() if device.answers)))

    @property
    def shares_gpus(self) -> bool:
        """Whether some of these runs share a GPU."""
        num_slots = self.num_slots
        return CPU not in self._devices and num_slots > sum(device.answers for device in self._devices.values())

    @property
    def _most(self) -> float:
        """How many runs the cores allow at a time; each keeps `threads` of them busy, on a GPU too."""
        is_typed = self._runs_per_gpu is not None and CPU not in self._devices
        return math.inf if is_typed and self.jobs is None else self._most_on_cores

    @property
    def _most_on_cores(self) -> int:
        return self.jobs or max(1, available_cores() // self.threads)

    @property
    def kinds(self) -> set[str]:
        """What the runs will use: `cpu`, or the names of the GPUs."""
        self._look_if_due()
        return {CPU if device.gpu.id == CPU else device.gpu.name or "" for device in self._devices.values()}

    def describe(self) -> str:
        """One line about where the runs will go, to follow `on`."""
        self._look_if_due()
        if CPU in self._devices:
            limit = self._devices[CPU].limit
            return f"the CPU: {counted(limit, 'run')} at a time with {counted(self.threads, 'thread')} each"
        slots = sum(device.most for device in self._devices.values())
        kinds = [f"{names}: {self._number_in_words(most, slots)}" for most, names in self._kinds_by_most().items()]
        in_all = f", {self._most} in all" if self._most < slots else ""
        return "; ".join(kinds) + in_all

    def _kinds_by_most(self) -> dict[int, str]:
        """The GPUs in words, by how many runs each takes."""
        found: dict[int, list[str]] = {}
        for device in self._devices.values():
            found.setdefault(device.most, []).append(device.gpu.name or "GPU of unknown kind")
        return {
            most: ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))
            for most, names in found.items()
        }

    def _number_in_words(self, most: int, slots: int) -> str:
        may_grow = self._runs_per_gpu is None and most >= AT_ONCE and self._most > slots
        return f"{counted(most, 'run')} at a time on each{' and more if that is faster' if may_grow else ''}"

    @property
    def mps_percent(self) -> float | None:
        """Of a GPU's multiprocessors, for each run, where NVIDIA's Multi-Process Service divides them; None: all.

        As the environment says; or else by how many runs there may be at a time, and not by how many there are: it is
        the same for all runs of a plan, as convolutions take their sums in another order with another one.
        """
        if self.undivided:
            return None
        gpus = [device.gpu for device in self._devices.values()]
        if any(gpu.is_mig for gpu in gpus):
            return None
        asked = default_mps_percent()
        if asked is not None:
            return asked
        in_all = min(self._most, math.inf if self.num_runs is None else self.num_runs)
        expected = 1 if any(gpu.memory_total is None for gpu in gpus) else EXPECTED_RUNS_PER_GPU
        number = min(self._runs_per_gpu or expected, in_all / len(gpus))
        percent = math.ceil(100 * TIMES_DIVIDED / number)
        return percent if percent < 100 else None

    @property
    def undivided(self) -> str:
        """Why runs cannot have a part of a GPU each, in words; empty where they can."""
        self._look_if_due()
        if CPU in self._devices:
            return "there is no GPU"
        return "" if has_mps() else "the Multi-Process Service does not run (nvidia-cuda-mps-control -d)"

    def acquire(self, memory_mb: float | None = None, avoided: Collection[str] = ()) -> Slot | None:
        """A slot for a run, None if none is free. May look at the GPUs, which takes as long as `nvidia-smi`.

        Args:
            memory_mb: peak memory on a GPU, from the record of an equal run; None if unknown.
            avoided: devices on which the run failed. They take it if no other can, for want of memory or as others use
                it; it waits for one that is taken by our own runs, or rests.
        """
        if self._devices and not any(device.might_take(memory_mb) for device in self._devices.values()):
            return None
        if self._devices and sum(len(device.reserved) for device in self._devices.values()) >= self._most:
            return None
        self._look_if_due()
        free = self._free(memory_mb, avoided)
        if not free:
            return None
        device = min(free, key=lambda each: (len(each.reserved), each.gpu.load or 0.0, -(each.room or 0.0)))
        return self._take(device, memory_mb)

    def release(self, slot: Slot) -> None:
        """Free the slot of a run that has ended. Raises KeyError if it was released before."""
        device = self._devices[slot.device]
        del device.reserved[slot]
        device.left = self.clock()
        if device.packing is not None:
            device.training.discard(slot)
            device.packing.changed(device.gpu.id)
        self._look_again_at = float("-inf")

    def listen(self, slot: Slot, run: tuple[str, str], progress: Progress, start: float) -> None:
        """Learn from a run how many should share a GPU (`Packing.listen`)."""
        device = self._devices[slot.device]
        if device.packing is None or slot not in device.reserved:
            return
        if slot not in device.training:
            device.training.add(slot)
            device.packing.changed(device.gpu.id)
        before = device.packing.most
        device.packing.listen(device.gpu.id, len(device.training), run, progress, start)
        if device.packing.most < before:
            number = counted(device.packing.most, "run")
            self.say(
                f"{device.gpu.name or device.gpu.label}: {number} at a time from now on, as more are no faster in all"
            )

    def report_peak(self, slot: Slot, memory_mb: float, may_grow: bool = False) -> None:
        """Replace the memory reserved for a run by the most it has used so far, if it still holds its slot.

        Args:
            slot: of the run.
            memory_mb: its peak so far; what equal runs are known to reach stays reserved.
            may_grow: whether later stages may need more, so that nothing reserved is given up.
        """
        device = self._devices[slot.device]
        if slot in device.reserved:
            reserved = device.reserved[slot]
            needed = device.reservation(max(memory_mb, slot.memory_mb or 0.0))
            needed = max(needed, reserved) if may_grow else needed
            device.foreign = max(0.0, device.foreign - max(0.0, needed - reserved))
            device.reserved[slot] = needed

    def fewer_neighbours(self, slot: Slot) -> None:
        """Let fewer runs share the device of a slot, released or not, whose run ran out of memory."""
        device = self._devices[slot.device]
        neighbours = len(device.reserved) - (slot in device.reserved)
        device.limit = max(1, min(device.limit - 1, neighbours or device.limit))

    def worked(self, slot: Slot) -> None:
        """Note that a run was completed there."""
        self._devices[slot.device].failures = 0

    def crashed(self, slot: Slot) -> None:
        """Note that a run crashed there. One may be to blame itself; after several in a row, the device rests.

        Where it is so on all devices, it is not for them, and none rests.
        """
        device = self._devices[slot.device]
        if slot.taken <= device.rested:  # what ends many runs at once is one failure
            return
        device.failures += 1
        usable = [each for each in self._devices.values() if each.answers]
        if all(each.failures > 1 for each in usable):
            for each in usable:
                each.rests_until = float("-inf")
        elif device.failures > 1:
            self._let_rest(device, device.failures - 1, f"the last {device.failures} runs there failed")

    def refused(self, slot: Slot) -> None:
        """Note that the device took no process: fewer of ours share it, or it rests where there is none of ours."""
        device = self._devices[slot.device]
        if any(each is not slot for each in device.reserved):
            self.fewer_neighbours(slot)
            return
        if slot.taken > device.rested:
            device.failures += 1
            self._let_rest(device, device.failures, "it takes no process of ours")

    def _let_rest(self, device: _Device, number: int, reason: str) -> None:
        seconds = min(REST * 2 ** (number - 1), LONGEST_REST)
        device.rested = self.clock()
        device.rests_until = device.rested + seconds
        self.say(f"{device.gpu.label} is left alone for {seconds:g} s: {reason}")

    def obstacle(self) -> str:
        """Why no device takes a run although none of ours is there, in words, with what can be changed.

        Empty where they only rest, which was said, and where one would.
        """
        now, reasons, hints, resting = self.clock(), [], [], []
        for device in self._devices.values():
            if not device.answers:
                reasons.append(f"{device.gpu.label} no longer responds")
            elif use := device.use_by_others(self.usage_threshold, now):
                reasons.append(f"{device.gpu.label}: {use}")
                hints = [f"idle is less than --usage_threshold {self.usage_threshold:g}"]
            elif device.rests_until > now:
                resting.append(f"{device.gpu.label} is left alone for {device.rests_until - now:.0f} s")
            else:
                return ""
        hints += ["CUDA_VISIBLE_DEVICES= uses the CPU"]
        return f"{'; '.join([*reasons, *resting])} ({'; '.join(hints)})" if reasons else ""

    def _free(self, memory_mb: float | None, avoided: Collection[str]) -> list[_Device]:
        now = self.clock()
        usable = [device for device in self._devices.values() if device.answers]
        most = max((device.room or 0.0 for device in usable), default=0.0)
        idle = [
            device
            for device in usable
            if not device.is_full and device.is_idle(self.usage_threshold, now) and device.rests_until <= now
        ]
        free = [device for device in idle if device.fits(memory_mb, device.room, most)]
        if not avoided:
            return free
        others = [device for device in usable if device.gpu.id not in avoided and device.can_hold(memory_mb)]
        is_awaited = any(device.reserved or device.rests_until > now for device in others)
        return [device for device in free if device in others] or ([] if is_awaited else free)

    def _take(self, device: _Device, memory_mb: float | None) -> Slot:
        if device.gpu.id == CPU:
            slot = Slot("CPU", {}, ("--device", "cpu"), CPU, memory_mb, self.clock())
        else:
            visible = {"CUDA_VISIBLE_DEVICES": device.gpu.id}
            slot = Slot(device.gpu.label, visible, ("--device", "cuda"), device.gpu.id, memory_mb, self.clock())
        device.reserved[slot] = device.reservation(memory_mb)
        return slot

    def _look_if_due(self) -> None:
        if CPU in self._devices or self.clock() < self._look_again_at:
            return
        found = {gpu.id: gpu for gpu in self._look()}
        self._look_again_at = self.clock() + self.waitsecs
        if not self._devices:
            self._choose_cpu_or_gpus(bool(found))
        for device in self._devices.values():
            if device.answers and device.gpu.id not in (CPU, *found):
                device.answers = False
                self.say(f"{device.gpu.label} no longer responds: no further run starts there")
        for gpu in found.values():
            self._see(gpu)

    def _choose_cpu_or_gpus(self, with_gpu: bool) -> None:
        """Decide, after the first look, whether the runs go to the GPUs or to the CPU."""
        if not with_gpu:
            self._devices[CPU] = _Device(Gpu(CPU), self._most_on_cores, packing=None)
        if not with_gpu and self._runs_per_gpu is not None:
            self.say("--runs_per_gpu has no effect: there is no GPU; see --jobs")

    def _see(self, gpu: Gpu) -> None:
        if gpu.id not in self._devices:
            if gpu.is_exclusive and (self._runs_per_gpu or 1) > 1:
                self.say(f"{gpu.label} takes one run at a time: its compute mode is Exclusive_Process")
            limit = 1 if gpu.is_exclusive else self._runs_per_gpu or MOST_RUNS_PER_GPU
            packing = None if self._runs_per_gpu else self._packings.setdefault(gpu.name, Packing(MOST_RUNS_PER_GPU))
            self._devices[gpu.id] = _Device(gpu, limit, packing)
        elif not self._devices[gpu.id].answers:
            self.say(f"{gpu.label} responds again")
        self._devices[gpu.id].see(gpu)


def counted(number: int, noun: str) -> str:
    """`0 runs`, `1 run`, `2 runs`."""
    return f"{number} {noun}{'s' if number != 1 else ''}"
