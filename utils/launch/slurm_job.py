"""`run.py slurm-job`: in a Slurm job, bring its share of a submission to its end, side by side or one after another.

The launcher's own scheduler and local engine do it, on the devices that Slurm has given to the job. When Slurm asks the
job to end, the runs save their state and the job is queued again.
"""

import contextlib
import os
import signal
import socket
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils import slurm
from utils.config.command_line import make_parser
from utils.config.options import Option, ranged
from utils.errors import COMPLETE, INCOMPLETE, UserError
from utils.launch.engine import Attempt, Limits
from utils.launch.job import CommonOptions, Data, Job, make_job
from utils.launch.submission import Note, Submission, SubmittedRun
from utils.records.ledger import Axes, Ledger
from utils.records.record import Record
from utils.records.state import RunState
from utils.slurm import SlurmError

_OPTIONS = (
    Option("folder", Path, None, "folder of the submission", group="what", positional=True, metavar="FOLDER"),
    Option(
        "index",
        ranged(int, 0),
        None,
        "which of its jobs",
        source="$SLURM_ARRAY_TASK_ID",
        group="what",
    ),
)
_NEVER = 10**9
_REFUSALS = 2  # of one run: a job has its GPU for a limited time, and the launcher may submit another one


def slurm_job(words: Sequence[str]) -> int:
    """Bring the runs of one job of a submission to their end; the exit code is 0 if all have an answer."""
    description = "In a Slurm job: bring the runs of this job of a submission to their end. run.py submits such jobs."
    options = make_parser(_OPTIONS, prog="python run.py slurm-job", description=description).parse_args(words)
    number = os.environ.get("SLURM_ARRAY_TASK_ID", "")
    if options.index is None and not number.isdecimal():
        raise UserError("slurm-job: give --index, as this is no job of an array")
    if options.folder is None:
        raise UserError("slurm-job: give the folder of the submission")
    return _Share(options.folder, int(number) if options.index is None else options.index).run()


class _Share:
    """The runs of one job.

    Args:
        folder: of the submission.
        index: of the job in its array.

    Raises:
        UserError: the folder cannot be read, or is that of another version.
    """

    def __init__(self, folder: Path, index: int) -> None:
        self._submission, self._index = Submission(folder), index
        try:
            content, runs = self._submission.content, self._submission.runs_of(index)
        except (OSError, ValueError, LookupError, TypeError) as error:
            node = socket.gethostname()
            raise UserError(
                f"{folder} cannot be read on {node} ({error}): --results_dir must be on a file system that the nodes "
                "and the machine that submits share"
            ) from None
        if not runs:
            raise UserError(f"{folder} has no job {index}")
        self._common = CommonOptions.from_json(content["common"])
        self._options = content["in_job"]
        self._axes = Axes(*map(tuple, (content["axes"][name] for name in ("searched", "compared"))))
        self._sizes = {fingerprint: tuple(sizes) for fingerprint, sizes in content["class_sizes"].items()}
        self._runs = runs
        self._started = time.time()

    def run(self) -> int:
        """Bring the runs to their end; gives the exit code."""
        failed = {note.run for note in self._submission.notes(self._index) if note.outcome is RunState.FAILED}
        jobs = tuple(self._job(run) for run in self._runs if run.name not in failed)
        scheduler = self._scheduler(jobs)
        self._submission.note(self._index, Note("", node=socket.gethostname()))
        scheduler.run()
        has_answers = all(job.state().is_answer for job in jobs)
        if scheduler.stopped_by is not None and not has_answers:
            self._queue_again([job.record for job in jobs], scheduler.stopped_by)
        return COMPLETE if has_answers and not failed else INCOMPLETE

    def _job(self, run: SubmittedRun) -> Job:
        """Raises UserError if its code has changed since, so that it would be another run."""
        data = Data(run.fingerprint, self._sizes[run.fingerprint])
        job = make_job(run.words, self._common, lambda config: data, self._axes)
        if job.name != run.name:
            raise UserError(
                f"{run.name}: the code of one of its parts has changed since it was submitted; submit again"
            )
        return job

    def _scheduler(self, jobs: tuple[Job, ...]) -> Any:
        from utils.launch.devices import Devices
        from utils.launch.estimates import Estimates, Remaining
        from utils.launch.local import LocalEngine
        from utils.launch.scheduler import Scheduler
        from utils.launch.view import View

        options = self._options
        devices = Devices(
            usage_threshold=options["usage_threshold"],
            runs_per_gpu=options["runs_per_gpu"],
            jobs=1 if any(run.is_alone for run in self._runs) else None,
            threads=self._common.threads or 1,
            num_runs=len(self._runs),
            waitsecs=options["waitsecs"],
            say=lambda text: print(text, flush=True),
            interpreter=options["interpreter"],
        )
        if options["has_gpus"] and devices.kinds == {"cpu"}:
            raise UserError(f"a GPU was asked for, but the runs can use none on {socket.gethostname()}")
        common = self._common.on(devices.mps_percent)
        estimates = Estimates(common.results_dir, devices.kinds, devices.threads)
        names = ("timeout", "waitsecs", "coldsecs")
        limits = Limits(equal_failures=_NEVER, refusals=_REFUSALS, **{name: options[name] for name in names})
        engine = LocalEngine(common, Path(options["log_dir"]), devices, limits, estimates.memory_mb)
        notes = _Notes(self._submission, self._index, Ledger(common.folder))

        class NotingView(View):
            """Notes what was started, for the launcher."""

            def started(self, attempt: Attempt) -> None:
                notes.write(Note(attempt.job.name))
                super().started(attempt)

        print(f"runs: {len(jobs)}, on {devices.describe()}", flush=True)
        return Scheduler(jobs, engine, limits, NotingView(common.group, Remaining(estimates)), notes)

    def _queue_again(self, records: Sequence[Record], stopped_by: int) -> None:
        """Let Slurm start the job again, unless somebody has cancelled it or it would get nowhere."""
        job_id = slurm.own_job_id()
        if job_id is None or self._submission.is_cancelled:
            return
        if stopped_by == signal.SIGUSR1 and not any(_has_moved(record, self._started) for record in records):
            for record in records:
                reason = "the time limit of its job ended before it had saved anything; give a longer --time"
                self._submission.note(self._index, Note(record.folder.name, RunState.FAILED, reason))
            return
        try:
            if slurm.state_of(job_id) == "RUNNING":  # otherwise Slurm itself queues it again, or it was cancelled
                print("the job is queued again; its runs resume from their saved state", flush=True)
                slurm.requeue(job_id)
        except SlurmError as error:
            print(f"the job cannot be queued again: {error}", flush=True)


def _has_moved(record: Record, since: float) -> bool:
    """Whether a run has saved a state or its result since a moment."""
    for path in (record.checkpoint_path, record.result_path):
        with contextlib.suppress(OSError):
            if path.stat().st_mtime >= since - 1.0:  # clocks of file servers differ a little
                return True
    return False


@dataclass
class _Notes:
    """The books of a job: what has become of its runs, for the launcher and for the table.

    Attributes:
        submission: of the job.
        index: of the job.
        ledger: of the group.
    """

    submission: Submission
    index: int
    ledger: Ledger

    def plan(self, jobs: Iterable[Job]) -> None:
        """Nothing to write: the launcher has planned them."""

    def add(self, jobs: Iterable[Job]) -> None:
        """What follows a search is the launcher's to start."""

    def note(self, job: Job, outcome: RunState, reason: str) -> None:
        """Note how a run ended."""
        self.write(Note(job.name, outcome, reason))
        if outcome in (RunState.FAILED, RunState.STOPPED):
            with contextlib.suppress(OSError):
                self.ledger.note(job.name, outcome, reason)

    def write(self, note: Note) -> None:
        """Write a note; that it cannot be is said and stops no run."""
        try:
            self.submission.note(self.index, note)
        except OSError as error:
            print(
                f"cannot write {error.filename}: {error.strerror}; the launcher may not see how a run goes", flush=True
            )
