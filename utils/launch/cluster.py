"""How jobs are submitted to a Slurm cluster: by what options, and with what batch script."""

import argparse
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.config.registry import ROOT
from utils.errors import UserError
from utils.launch.arguments import RUNS_PER_JOB
from utils.launch.submission import Submission

WARNING = 120  # seconds before its time limit at which a job is asked to save its runs, or a quarter of a shorter limit
_MOST_SIDE_BY_SIDE = 4  # runs on a GPU for which a job asks for cores


@dataclass(frozen=True)
class Cluster:
    """How jobs are submitted.

    Attributes:
        directives: options of `sbatch`, such as `--partition=gpu`.
        has_gpus: whether these ask for a GPU.
        limit: time limit of a job in seconds, None if it is the partition's.
        setup: script that a job sources first.
        runs_per_job: runs that a job takes.
        jobs: jobs that may run at once, None: any number.
        threads: CPU threads of a run.
        interpreter: the Python of the jobs and their runs.
        in_job: further options of the launcher inside a job, by name.
    """

    directives: tuple[str, ...]
    has_gpus: bool
    limit: float | None
    setup: Path | None
    runs_per_job: int
    jobs: int | None
    threads: int
    interpreter: str
    in_job: Mapping[str, Any]
    kinds = None  # of device, whose names are not known before a job has one

    @property
    def shares_gpus(self) -> bool:
        """Whether some of these runs share a GPU."""
        return self._side_by_side > 1

    @property
    def num_slots(self) -> int:
        """How many runs there are at a time, as far as that is known."""
        return (self.jobs or 1) * self._side_by_side

    @property
    def _side_by_side(self) -> int:
        """Runs of a job that share its GPU at a time, as far as that is known; without a GPU one after another."""
        return min(self.runs_per_job, _MOST_SIDE_BY_SIDE) if self.has_gpus else 1

    def describe(self) -> str:
        """One line about where the runs will go, to follow `on`."""
        at_once = f", {self.jobs} jobs at once" if self.jobs else ""
        return (
            f"Slurm: {' '.join(self.directives) or 'the default partition'}, {self.runs_per_job} runs per job{at_once}"
        )

    def script(self, submission: Submission, after: Sequence[str]) -> str:
        """The batch script of a submission.

        Args:
            submission: whose jobs it starts.
            after: arrays that have to end first, by their job ids.
        """
        at_once = f"%{self.jobs}" if self.jobs else ""
        output = str(submission.folder.resolve()).replace("%", "%%")
        warning = WARNING if self.limit is None else max(1, min(WARNING, int(self.limit / 4)))
        directives = [
            f"--job-name={submission.job_name}",
            f"--array=0-{submission.num_jobs - 1}{at_once}",
            f"--output={output}/%a.txt",
            "--open-mode=append",
            "--nodes=1",
            "--ntasks=1",
            f"--cpus-per-task={self.threads * self._side_by_side}",
            "--requeue",
            f"--signal=B:USR1@{warning}",
            *([f"--dependency=afterany:{':'.join(after)}"] if after else []),
            *self.directives,
        ]
        command = [self.interpreter, str(ROOT / "run.py"), "slurm-job", str(submission.folder.resolve())]
        setup = [f"source {shlex.quote(str(self.setup.resolve()))} || exit"] if self.setup else []
        lines = [*(f"#SBATCH {shlex.quote(each)}" for each in directives), *setup, f"exec {shlex.join(command)}"]
        return "\n".join(["#!/bin/bash", *lines, ""])


def seconds_of(text: str) -> float | None:
    """A time limit as `sbatch` takes it (`90`, `1:30:00`, `2-12`), in seconds; None if it is none."""
    days, dash, rest = text.rpartition("-")
    try:
        parts = [int(part) for part in rest.split(":")]
        if dash:
            hours, minutes, seconds = (*parts, 0, 0)[:3]
        else:
            hours, minutes, seconds = {1: (0, *parts, 0), 2: (0, *parts), 3: tuple(parts)}[len(parts)]
        return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60.0 + seconds
    except (ValueError, KeyError):
        return None


def make_cluster(options: argparse.Namespace, threads: int, log_dir: Path) -> Cluster:
    """How jobs are submitted, by the options of `run.py`.

    Raises:
        UserError: an option cannot be.
    """
    names = ("partition", "account", "qos", "gres", "time")
    directives = [f"--{name}={getattr(options, name)}" for name in names if getattr(options, name) is not None]
    try:
        directives += shlex.split(options.sbatch or "")
    except ValueError as error:
        raise UserError(f"--sbatch {options.sbatch!r}: {error}") from None
    limit = None if options.time is None else seconds_of(options.time)
    if options.time is not None and limit is None:
        raise UserError(f"--time {options.time}: give a limit as sbatch takes it, such as 90 (minutes) or 8:00:00")
    if options.setup is not None and not options.setup.is_file():
        raise UserError(f"--setup {options.setup}: there is no such file")
    has_gpus = any("gpu" in each for each in directives if each.startswith(("--gres", "--gpus")))
    shared = ("interpreter", "runs_per_gpu", "usage_threshold", "coldsecs", "waitsecs", "timeout")
    in_job = {"has_gpus": has_gpus, "log_dir": str(log_dir), **{name: getattr(options, name) for name in shared}}
    return Cluster(
        tuple(directives),
        has_gpus,
        limit,
        options.setup,
        options.runs_per_job or RUNS_PER_JOB,
        options.jobs,
        threads,
        options.interpreter,
        in_job,
    )
