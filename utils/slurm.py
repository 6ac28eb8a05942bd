"""Slurm's own commands: submit a script, ask how jobs are, requeue and cancel them.

Only `squeue` is asked how jobs are, so that a cluster without accounting will do.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from utils.errors import UserError

WAITING = frozenset(
    {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD"}
)
RUNNING = frozenset({"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "RESIZING", "STAGE_OUT"})
ASK_EVERY = 10.0  # seconds between two questions of one program how jobs are
_PATIENCE = 60.0  # seconds for an answer of Slurm; it tries for a while itself where its controller is restarted


_answers: dict[int, tuple[float, list["SlurmJob"]]] = {}  # by user: when it was given, and the jobs


class SlurmError(Exception):
    """Slurm does not answer, or refuses; with its own words."""


@dataclass(frozen=True)
class SlurmJob:
    """A job as Slurm has it now.

    Attributes:
        array: job id of the array that it is a task of.
        index: of the task in it; 0 where it is no task of an array.
        id: its own job id.
        state: in Slurm's word, such as `PENDING`.
        reason: in Slurm's word why it waits or ended, `None` where there is none.
        node: where it runs or ran; empty before.
        name: of the array.
    """

    array: str
    index: int
    id: str
    state: str
    reason: str
    node: str
    name: str

    @property
    def is_waiting(self) -> bool:
        """Whether it has yet to start, for the first time or again."""
        return self.state in WAITING

    @property
    def is_over(self) -> bool:
        """Whether it has ended and will not start again by itself."""
        return self.state not in WAITING | RUNNING

    @property
    def state_and_reason(self) -> str:
        """Such as `PENDING (Priority)`; the state alone if there is no reason."""
        return self.state if self.reason in ("", "None") else f"{self.state} ({self.reason})"

    @property
    def words(self) -> str:
        """Its state and reason, and the node where it runs or ran."""
        return f"{self.state_and_reason}{f' on {self.node}' if self.node else ''}"


def submit(script: Path) -> str:
    """Submit a batch script; gives the job id. Raises SlurmError."""
    return _ask("sbatch", "--parsable", str(script)).strip().partition(";")[0]


def jobs_of(user: int | None = None, oldest: float = 0.0) -> list[SlurmJob]:
    """The jobs of a user that Slurm knows of, those that ended in the last minutes included.

    Args:
        user: by number; None: this one.
        oldest: seconds that an earlier answer may be old, to be given again.

    Raises:
        SlurmError: it does not answer.
    """
    user = os.getuid() if user is None else user
    if user not in _answers or time.monotonic() - _answers[user][0] >= oldest:
        form = "--format=%F|%K|%A|%T|%r|%N|%j"
        lines = _ask("squeue", f"--user={user}", "--array", "--states=all", "--noheader", form).splitlines()
        fields = [line.split("|", 6) for line in lines if line.count("|") >= 6]
        jobs = [SlurmJob(array, int(index) if index.isdecimal() else 0, *more) for array, index, *more in fields]
        _answers[user] = time.monotonic(), jobs
    return _answers[user][1]


def state_of(job_id: str, user: int | None = None, oldest: float = 0.0) -> str:
    """Slurm's word for the state of a user's job; empty if it does not know the job. Arguments as of `jobs_of`.

    Raises:
        SlurmError: it does not answer.
    """
    return next((job.state for job in jobs_of(user, oldest) if job.id == job_id), "")


def is_running(job_id: str, user: int, oldest: float = 0.0) -> bool:
    """Whether a user's job is running, as far as that is known: if Slurm does not answer, it may be."""
    try:
        return state_of(job_id, user, oldest) in RUNNING
    except SlurmError:
        return True


def own_job_id() -> str | None:
    """The job that this process is in; None outside of Slurm."""
    return os.environ.get("SLURM_JOB_ID") or None


def requeue(job_id: str) -> None:
    """Let a job start again later. Raises SlurmError."""
    _ask("scontrol", "requeue", job_id)


def cancel(job_ids: Iterable[str]) -> None:
    """Cancel jobs or arrays; those that are over stay so. Raises SlurmError."""
    ids = list(job_ids)
    if ids:
        _ask("scancel", *ids)


def largest_array() -> int:
    """Tasks that an array may have. Raises SlurmError."""
    lines = _ask("scontrol", "show", "config").splitlines()
    found = [line.partition("=")[2].strip() for line in lines if line.startswith("MaxArraySize")]
    return int(found[0]) if found and found[0].isdecimal() else 1001  # Slurm's own default


def check() -> None:
    """Raises UserError if this machine cannot reach Slurm."""
    missing = [program for program in ("sbatch", "squeue", "scancel", "scontrol") if shutil.which(program) is None]
    if missing:
        raise UserError(
            f"--engine slurm: there is no {missing[0]} on this machine; start on a login node of the cluster"
        )
    try:
        _ask("scontrol", "ping")
    except SlurmError as error:
        raise UserError(f"--engine slurm: Slurm does not answer: {error}") from None


def _ask(program: str, *words: str) -> str:
    command: Sequence[str] = (program, *words)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SlurmError(f"{program}: {error}") from None
    if done.returncode:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise SlurmError("; ".join(line.replace(f"{program}: ", "").replace("error: ", "") for line in lines[-2:]))
    return done.stdout
