"""Jobs, slots and a view for tests of the scheduler."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

from tests.utils.report.rig import counts
from utils.launch.engine import Limits
from utils.launch.grid import OTHERS, Grid
from utils.launch.job import CommonOptions
from utils.launch.local import LocalEngine
from utils.launch.scheduler import Scheduler
from utils.records.ledger import Axes
from utils.records.record import Record
from utils.records.state import RunState

CONFIG = {"values": {"nl": "BN", "seed": 0}, "command": []}
RESULT = {"counts": counts([50, 50]), "untrained": None, "anytime": []}
STUDY = Grid(  # a small one, which searches
    seeds=(0, 1),
    datasets=("seq-digits",),
    models=("er_ace", "er"),
    methods=("BN", "GN", "CN", "TBBN", "AdaB2N"),
    axes={"epochs": {OTHERS: (1,)}, "buffer_size": {OTHERS: (200,)}, "kappa": {OTHERS: (0.4, 1.0)}},
    searched=("kappa", "lambd", "ada_t0"),
    fixed=("--nf", "16", "--lr", "0.05", "--num_groups", "8"),
)


@dataclass(frozen=True)
class FakeJob:
    name: str
    words: tuple[str, ...]
    record: Record
    axes: Axes = field(default_factory=Axes)

    def state(self):
        return RunState.COMPLETE if self.record.complete else RunState.NOT_RUN


@dataclass(frozen=True, eq=False)
class FakeSlot:
    label: str = "somewhere"
    device: str = "it"
    environment: dict = field(default_factory=dict)
    arguments: tuple = ()


class FakeDevices:
    """So many slots; notes how many are taken at most."""

    def __init__(self, number=1, say=print, interpreter=sys.executable):
        self.free, self.number, self.most_taken, self.lowered = number, number, 0, 0
        self.say, self.interpreter, self.slot = say, interpreter, None

    def acquire(self, memory_mb, avoided=()):
        if not self.free:
            return None
        self.free -= 1
        self.most_taken = max(self.most_taken, self.number - self.free)
        return self.slot or FakeSlot()

    def release(self, slot):
        self.free += 1

    def fewer_neighbours(self, slot):
        self.lowered += 1

    def worked(self, slot):
        pass

    crashed = refused = worked

    def obstacle(self):
        return ""


class FakeEstimates:
    """What is known of a job, by functions of it."""

    def __init__(self, seconds=lambda job: None, rough=lambda job: None, num_steps=lambda job: None):
        self.seconds, self.rough_seconds = seconds, rough
        self.steps = SimpleNamespace(of=num_steps, of_retuning=lambda job: 0, are_exact=lambda job: True)


class SilentView:
    """Keeps what it is told."""

    refresh = None

    def __init__(self):
        self.lines, self.ends = [], []

    def say(self, text):
        self.lines.append(text)

    def started(self, child):
        pass

    def ended(self, job, outcome, reason, child, progress):
        self.ends.append((job.name, outcome, reason))

    def show(self, progress):
        pass


class SilentBooks:
    """Keeps what it is told."""

    def __init__(self):
        self.planned, self.added, self.notes = [], [], []

    def plan(self, jobs):
        self.planned += [job.name for job in jobs]

    def add(self, jobs):
        self.added += [job.name for job in jobs]

    def note(self, job, outcome, reason):
        self.notes.append((job.name, outcome, reason))


def job(root: Path, name: str, **words) -> FakeJob:
    typed = tuple(word for key, value in words.items() for word in (f"--{key}", str(value)))
    return FakeJob(name, ("--name", name, *typed), Record(root / "group" / name))


def scheduler(root: Path, jobs, number=2, books=None, follow=lambda job: (), **limits):
    """A scheduler of stand-in runs, its devices and its view."""
    common, program = CommonOptions(root, "group", root), Path(__file__).parent / "stand_in.py"
    devices, view = FakeDevices(number), SilentView()
    made = Limits(**{"waitsecs": 0.2, **limits})
    engine = LocalEngine(common, root / "logs", devices, made, program=program)
    run = Scheduler(tuple(jobs), engine, made, view, books or SilentBooks(), follow=follow)
    return run, devices, view


def num_starts(each: FakeJob) -> int:
    path = each.record.folder / "starts"
    return len(path.read_text().splitlines()) if path.exists() else 0
