"""What the launcher itself costs, with stand-in runs that write a complete record and do nothing else.

    python benchmarks/launcher.py

Six figures, all through the real planner, scheduler and engine: 200 runs that take no time, from the plan to the
table; what is added to runs of a second, two at a time; and the share of a core that the launcher takes while its runs
go on and others wait, on the cores with the live screen, and on GPUs of which another user holds one, behind a
`nvidia-smi` that answers at once; and on a Slurm cluster of two nodes on this machine, which it starts where the
packages are there: how long it takes to submit the online study, and the share of a core while its jobs are held.
"""

import argparse
import contextlib
import io
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rich.console import Console

from tests import slurm_rig
from utils import slurm
from utils.launch.arguments import RUNS_PER_JOB
from utils.launch.cluster import Cluster
from utils.launch.devices import Devices, Slot
from utils.launch.engine import Limits
from utils.launch.estimates import Estimates, Remaining
from utils.launch.gpu_watcher import GpuWatcher
from utils.launch.grid import change, find_grid
from utils.launch.job import CommonOptions, Data, DataFacts, Job
from utils.launch.local import LocalEngine
from utils.launch.plan import Plan, make_plan
from utils.launch.scheduler import Bookkeeper, PlanProgress, Scheduler
from utils.launch.slurm import SlurmEngine
from utils.launch.view import View
from utils.records.state import RunState
from utils.report import Report, write_report

STAND_IN = Path(__file__).with_name("stand_in.py")
NUM_RUNS = 200
NUM_BUSY_RUNS = 20
NUM_ALONE = 5
SETTLED = 3.0  # seconds after which the launcher has started what it can
_NVIDIA_SMI = """\
#!/bin/sh
case "$*" in
*gpu_serial*) echo "0, GPU-a, 0, 40000, 0, 40000, 550.1, NVIDIA A100, 1, Disabled, Disabled, 30"
              echo "1, GPU-b, 99, 40000, 39000, 1000, 550.1, NVIDIA A100, 2, Disabled, Disabled, 70" ;;
esac
"""


class StandInEngine(LocalEngine):
    """Starts stand-ins in the place of runs."""

    seconds = 0.0

    def command(self, job: Job, slot: Slot) -> list[str]:
        return command(job, self.seconds)


def command(job: Job, seconds: float) -> list[str]:
    """The command line of a stand-in."""
    options = json.dumps(job.config.values)
    return [sys.executable, "-S", "-E", str(STAND_IN), str(job.record.folder), options, str(seconds)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--idle", type=float, default=30.0, help="seconds over which the idle launcher is watched [30]")
    idle = parser.parse_args().idle
    started = time.monotonic()
    plan, shown = measure_many()
    print(f"{len(plan.jobs)} runs of no time, two at a time: {time.monotonic() - started:.1f} s in all ({shown})")
    took, alone = measure_busy()
    own = NUM_BUSY_RUNS / 2 * alone
    overhead = f"{100 * (took / own - 1):.1f} % over {own:.2f} s"
    print(f"{NUM_BUSY_RUNS} runs of {alone:.2f} s, two at a time: {took:.2f} s, {overhead}")
    print(f"idle on the cores, live screen: {100 * measure_idle(idle, with_gpus=False):.2f} % of a core")
    print(f"idle on GPUs, looking every 5 s: {100 * measure_idle(idle, with_gpus=True):.2f} % of a core")
    reason = slurm_rig.why_not()
    print(f"not measured: {reason}" if reason else measure_slurm(idle))


def measure_many() -> tuple[Plan, str]:
    """The plan of many runs, and how long each part of it took."""
    with tempfile.TemporaryDirectory() as folder:
        moments = [time.monotonic()]
        common, plan = make_runs(Path(folder), NUM_RUNS)
        moments.append(time.monotonic())
        run(plan, common, seconds=0.0)
        moments.append(time.monotonic())
        list(write_report(Report(common.results_dir, common.group)))
        moments.append(time.monotonic())
    parts = (end - begin for begin, end in itertools.pairwise(moments))
    return plan, ", ".join(f"{name} {took:.1f} s" for name, took in zip(("plan", "runs", "report"), parts, strict=True))


def measure_busy() -> tuple[float, float]:
    """Seconds of runs that take one each, two at a time, and of one of them without the launcher."""
    with tempfile.TemporaryDirectory() as folder:
        common, plan = make_runs(Path(folder), NUM_BUSY_RUNS + 1)
        moments = [time.monotonic()]
        for _ in range(NUM_ALONE):
            subprocess.run(command(plan.jobs[-1], 1.0), check=True)
            moments.append(time.monotonic())
        run(replace(plan, jobs=plan.jobs[:-1]), common, seconds=1.0)
        alone = statistics.median(end - begin for begin, end in itertools.pairwise(moments))
        return time.monotonic() - moments[-1], alone


def measure_idle(seconds: float, with_gpus: bool) -> float:
    """Share of a core that the launcher and what it asks take while its runs sleep and others wait."""
    usage: list[float] = []

    def watch():
        for pause in (SETTLED, seconds):
            time.sleep(pause)
            usage.append(sum(os.times()[:4]))
        os.kill(os.getpid(), 15)

    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as path:
        common, plan = make_runs(Path(folder), NUM_RUNS)
        if with_gpus:
            path.enter_context(fake_nvidia_smi(Path(folder)))
        threading.Thread(target=watch, daemon=True).start()
        run(plan, common, seconds=seconds + 60.0, with_gpus=with_gpus)
    return (usage[1] - usage[0]) / seconds


def measure_slurm(seconds: float) -> str:
    """What it takes to submit the online study and to wait for it."""
    moments: dict[str, float] = {"begin": time.monotonic()}
    usage: list[float] = []
    questions: list[float] = []
    ask = slurm.jobs_of

    def counted_ask(*arguments, **named):
        questions.append(time.monotonic())
        return ask(*arguments, **named)

    def watch():
        while "submitted" not in moments:
            time.sleep(0.1)
        for pause in (SETTLED, seconds):
            time.sleep(pause)
            usage.append(sum(os.times()[:4]))
        os.kill(os.getpid(), 15)

    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        stack.enter_context(real_slurm(Path(folder) / "slurm"))
        slurm.jobs_of = counted_ask
        stack.callback(setattr, slurm, "jobs_of", ask)
        moments["begin"] = time.monotonic()
        common = CommonOptions(Path(folder) / "results", "online", Path(folder))
        DataFacts.of = lambda self, config: Data(config.dataset, (500,) * 100)  # which need not be here
        plan = make_plan(change(find_grid("adab2n-online"), {"seeds": (0, 1, 2)}), {}, common)
        moments["planned"] = time.monotonic()
        options = {"log_dir": str(common.folder / "logs"), "has_gpus": False}
        cluster = Cluster(("--hold",), False, None, None, RUNS_PER_JOB, None, 1, sys.executable, options)
        engine = SlurmEngine(
            common, cluster, plan.axes, lambda text: moments.setdefault(text.split()[0], time.monotonic())
        )
        estimates = Estimates(common.results_dir)
        view = View(common.group, Remaining(estimates), Console(file=io.StringIO(), force_terminal=True, width=100))
        threading.Thread(target=watch, daemon=True).start()
        Scheduler(plan.jobs, engine, Limits(), view, Bookkeeper(common, view.say, plan.seeds, plan.axes)).run()
        view.close()
    planned, submitted = moments["planned"] - moments["begin"], moments["submitted"] - moments["planned"]
    share = f"{100 * (usage[1] - usage[0]) / seconds:.2f} % of a core"
    asked = f"{len(questions)} questions to Slurm in {SETTLED + seconds:.0f} s"
    took = f"planned in {planned:.1f} s, submitted {submitted:.1f} s later"
    return f"{len(plan.jobs)} runs on Slurm: {took}; idle: {share}, {asked}"


@contextlib.contextmanager
def real_slurm(folder: Path):
    """A cluster on this machine."""
    cluster = slurm_rig.Cluster(folder)
    try:
        cluster.start()
        os.environ["SLURM_CONF"] = cluster.environment["SLURM_CONF"]
        yield
    finally:
        cluster.stop()
        os.environ.pop("SLURM_CONF", None)


@contextlib.contextmanager
def fake_nvidia_smi(folder: Path):
    """Two GPUs, one of them another user's."""
    program, former = folder / "nvidia-smi", os.environ["PATH"]
    program.write_text(_NVIDIA_SMI)
    program.chmod(0o755)
    os.environ["PATH"] = f"{folder}{os.pathsep}{former}"
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    yield
    os.environ["PATH"] = former


def make_runs(folder: Path, number: int) -> tuple[CommonOptions, Plan]:
    """The plan of so many runs of two methods and five norm layers."""
    common = CommonOptions(folder / "results", "demo", folder)
    grid = change(find_grid("demo"), {"seeds": tuple(range(-(-number // 10)))})
    plan = make_plan(grid, {}, common)
    return common, replace(plan, jobs=plan.jobs[:number])


def run(plan: Plan, common: CommonOptions, seconds: float, with_gpus: bool = False) -> PlanProgress:
    """Bring a plan of stand-ins to its end, on a terminal that nobody sees."""
    look = GpuWatcher(lambda text: None).look if with_gpus else list  # torch is not asked whether it can use them
    devices = Devices(jobs=None if with_gpus else 2, say=lambda text: None, look=look)
    limits = Limits(grace=1.0)
    engine = StandInEngine(common, common.folder / "logs", devices, limits)
    engine.seconds = seconds
    estimates = Estimates(common.results_dir, devices.kinds, devices.threads)
    screen = Console(file=io.StringIO(), force_terminal=True, width=100, height=30)
    view = View(common.group, Remaining(estimates), screen)
    books = Bookkeeper(common, view.say, plan.seeds, plan.axes)
    scheduler = Scheduler(plan.jobs, engine, limits, view, books)
    try:
        progress = scheduler.run()
    finally:
        view.close()
    if scheduler.stopped_by is None and progress.count(RunState.COMPLETE) != len(plan.jobs):
        raise RuntimeError(f"{progress.count(RunState.COMPLETE)} of {len(plan.jobs)} stand-ins are complete")
    return progress


if __name__ == "__main__":
    main()
