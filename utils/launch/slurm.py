"""Runs as job arrays on a Slurm cluster, each job of which executes several of them (`utils/launch/slurm_job.py`).

Slurm schedules; the launcher submits, asks at most every ten seconds how its jobs are, and reads from the records and
from what the jobs have noted how the runs ended. All that it knows lies beside the records, so that it may end at any
time and be started again anywhere.
"""

import contextlib
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from utils import errors, slurm
from utils.errors import Busy, UserError
from utils.launch.cluster import Cluster
from utils.launch.devices import counted
from utils.launch.engine import Ended
from utils.launch.job import CommonOptions, Job
from utils.launch.local import NUM_LAST_LINES, exception_line, tail, without_blanks
from utils.launch.submission import Note, Submission, SubmittedRun, cancel_all, open_submissions
from utils.locks import held
from utils.records.content import UnreadableRecord
from utils.records.ledger import Axes
from utils.records.record import LOCKS
from utils.records.state import RunState
from utils.slurm import SlurmError, SlurmJob

_CRASH = 1  # exit code
_LOCK = "slurm.lock"  # held by a launcher that submits
_LOOKS_AFTER_END = 2  # before a run without an end is given up: a shared folder may show a file late


@dataclass(eq=False)
class SlurmAttempt:
    """A run in the hands of Slurm.

    Attributes:
        job: the run.
        ended: takes it when it is over, with its exit code.
        submission: where it was submitted; None: it will be.
        crashes: how often the run had crashed before.
        started: when it began to run, by the monotonic clock; before that, when it was submitted.
        is_running: whether its job runs it now.
        slurm_job: as Slurm had it at the last look.
        num_looks_after_end: looks since its job was over.
        reason: in one line, why it ended.
        log_path: what it prints.
        is_cancelled: whether its job was cancelled.
        is_preempted: whether its job was ended for the sake of others, and not queued again.
        is_alone: whether no other run may share its device.
    """

    job: Job
    ended: Ended
    log_path: Path
    submission: Submission | None = None
    crashes: int = 0
    started: float = field(default_factory=time.monotonic)
    is_running: bool = False
    slurm_job: SlurmJob | None = None
    num_looks_after_end: int = 0
    reason: str = ""
    is_cancelled: bool = False
    is_preempted: bool = False
    is_alone: bool = False
    killed = timed_out = False

    @property
    def index(self) -> int:
        """The index of its job in the array."""
        assert self.submission is not None
        return self.submission.index_of[self.job.name]

    @property
    def job_id(self) -> str:
        """The id of its job, as Slurm's commands take it."""
        assert self.submission is not None
        return f"{self.submission.job_id}_{self.index}"

    @property
    def label(self) -> str:
        """The node and the job that it runs in."""
        node = self.slurm_job.node if self.slurm_job else ""
        return f"{node or 'Slurm'} (job {self.job_id})"

    def last_lines(self) -> list[str]:
        """The last lines that it printed."""
        return without_blanks(tail(self.log_path))[-NUM_LAST_LINES:]

    def true_code(self, code: int) -> int:
        """The exit code as it was read."""
        return code

    def last_words(self, code: int) -> str:
        """In one line why it ended."""
        return self.reason


class SlurmEngine:
    """Submits runs, and reads how they end.

    Args:
        common: options that all runs share.
        cluster: how jobs are submitted.
        axes: the plan's.
        say: takes a line.
        clock: seconds, monotonic.
    """

    outlives_launcher = True

    def __init__(
        self,
        common: CommonOptions,
        cluster: Cluster,
        axes: Axes,
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._common = common
        self._cluster = cluster
        self._facts = {"common": common.as_json(), "axes": asdict(axes), "in_job": cluster.in_job}
        self._log_dir = Path(cluster.in_job["log_dir"])
        self._say = say
        self._clock = clock
        self._batch: list[SlurmAttempt] = []
        self._attempts: dict[str, SlurmAttempt] = {}
        self._alone: set[str] = set()
        self._crashes: dict[str, int] = {}
        self._found: dict[str, Submission] | None = None  # by the runs that are under way there
        self._jobs: dict[tuple[str, int], SlurmJob] = {}  # at the last look
        self._new_arrays: list[str] = []  # submitted since
        self._look_at = float("-inf")
        self._said: set[str] = set()
        self._has_submitted = False

    @cached_property
    def _largest_array(self) -> int:
        return slurm.largest_array()

    # -- starting ----------------------------------------------------------------------------------------------------

    def start(self, job: Job, ended: Ended) -> SlurmAttempt:
        """Take a run into the next submission, or find it in an earlier one.

        Raises:
            Busy: a process that is none of Slurm's is at it.
        """
        if self._found is None:
            self._found = self._search_alone()
        attempt = SlurmAttempt(job, ended, self._log_dir / f"{job.name}.txt")
        attempt.crashes, attempt.is_alone = self._crashes.get(job.name, 0), job.name in self._alone
        submission = self._found.pop(job.name, None)
        if submission is not None:
            self._adopt(attempt, submission)
            attempt.num_looks_after_end = _LOOKS_AFTER_END - 1
        elif job.record.is_held():
            raise Busy(f"another process is running {job.name}")
        else:
            self._batch.append(attempt)
        self._attempts[job.name] = attempt
        return attempt

    def _search_alone(self) -> dict[str, Submission]:
        """`_search` under the lock that keeps other launchers from submitting. Raises UserError."""
        folder = self._common.folder
        if not open_submissions(folder):
            return {}
        try:
            with held(folder / LOCKS / _LOCK):
                return self._search()
        except SlurmError as error:
            raise UserError(f"Slurm does not answer: {error}") from None
        except OSError as error:
            raise UserError(f"cannot write {error.filename or folder}: {error.strerror}") from None

    def _search(self) -> dict[str, Submission]:
        """The submissions of the group's runs whose end has yet to be read; of a run with several, the last one.

        A launcher that was killed while it submitted has left no job id: its jobs, if there are any, are found by name.
        """
        found = {}
        for submission in open_submissions(self._common.folder):
            if submission.job_id is None:
                jobs = slurm.jobs_of(oldest=slurm.ASK_EVERY)
                job_id = next((job.array for job in jobs if job.name == submission.job_name), None)
                if job_id is None:
                    submission.close()
                else:
                    submission.write_job_id(job_id)
            if submission.job_id is not None:
                known = submission.read_names()
                found.update({name: submission for name in submission.index_of if name not in known})
        return found

    @staticmethod
    def _adopt(attempt: SlurmAttempt, submission: Submission) -> None:
        attempt.submission = submission
        run = next(run for run in submission.runs if run.name == attempt.job.name)
        attempt.crashes, attempt.is_alone = max(attempt.crashes, run.crashes), run.is_alone

    def look(self) -> None:
        """Submit what was started; ask Slurm, if that is due, how its jobs are."""
        is_due = self._clock() >= self._look_at
        submitted = [each for each in self._attempts.values() if each.submission is not None]
        if is_due and submitted:
            self._look_at = self._clock() + slurm.ASK_EVERY
            self._ask(submitted)
        if self._batch and (is_due or not self._has_submitted):
            self._submit()

    def _ask(self, submitted: Sequence[SlurmAttempt]) -> None:
        """Ask Slurm how its jobs are, and read what has become of the runs that were submitted."""
        try:
            self._jobs = {(job.array, job.index): job for job in slurm.jobs_of()}
        except SlurmError as error:
            self._say_once(f"Slurm does not answer and will be asked again: {error}")
            return
        self._new_arrays = []
        self._tell()
        notes: dict[tuple[Path, int], dict[str, Note]] = {}
        for attempt in submitted:
            self._read_attempt(attempt, notes)

    def patience(self) -> float | None:
        """Seconds until Slurm is to be asked again; None: it need not be."""
        if self._batch and not self._has_submitted:
            return 0.0
        return max(0.0, self._look_at - self._clock()) if self._attempts else None

    def _submit(self) -> None:
        """Submit the batch, except for the runs that another launcher has submitted meanwhile.

        Raises:
            UserError: Slurm refuses the first submission, or the folder cannot be written.
        """
        folder = self._common.folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with held(folder / LOCKS / _LOCK):
                found = self._search()
                for attempt in self._batch:
                    if attempt.job.name in found:
                        self._adopt(attempt, found[attempt.job.name])
                most = self._cluster.runs_per_job * self._largest_array
                self._batch = [each for each in self._batch if each.submission is None]
                while self._batch:
                    self._submit_array(self._batch[:most])
                    self._batch = self._batch[most:]
        except SlurmError as error:
            if not self._has_submitted:
                raise UserError(f"Slurm refuses the jobs: {error}") from None
            self._look_at = self._clock() + slurm.ASK_EVERY
            self._say_once(f"Slurm refuses jobs, which will be submitted again later: {error}")
        except OSError as error:
            raise UserError(f"cannot write {error.filename or folder}: {error.strerror}") from None

    def _submit_array(self, attempts: Sequence[SlurmAttempt]) -> None:
        sizes = {each.job.data.fingerprint: list(each.job.data.class_sizes) for each in attempts}
        content = {**self._facts, "runs_per_job": self._cluster.runs_per_job, "class_sizes": sizes}
        runs = [
            SubmittedRun(each.job.name, each.job.words, each.job.data.fingerprint, each.crashes, each.is_alone)
            for each in attempts
        ]
        after = self._arrays_under_way() if self._cluster.jobs else []
        submission = Submission.make(self._common.folder, content, runs)
        try:
            submission.script_path.write_text(self._cluster.script(submission, after), encoding="utf-8")
            submission.write_job_id(slurm.submit(submission.script_path))
        except SlurmError:
            submission.close()
            raise
        what = f"{counted(len(runs), 'run')} in {counted(submission.num_jobs, 'job')}"
        self._say(f"submitted {what}: Slurm array {submission.job_id}, {submission.folder}")
        self._has_submitted = True
        self._new_arrays.append(submission.job_id or "")
        for attempt in attempts:
            attempt.submission = submission

    def _arrays_under_way(self) -> list[str]:
        """The job ids of the arrays that have to end first where so many jobs may run at once."""
        known = {array for (array, _), job in self._jobs.items() if not job.is_over} | {*self._new_arrays}
        ids = [submission.job_id for submission in open_submissions(self._common.folder)]
        return [each for each in ids if each in known]

    # -- reading -----------------------------------------------------------------------------------------------------

    def _read_attempt(self, attempt: SlurmAttempt, notes: dict[tuple[Path, int], dict[str, Note]]) -> None:
        """What has become of a run since the last look."""
        submission, index = attempt.submission, attempt.index
        assert submission is not None
        slurm_job = self._jobs.get((submission.job_id or "", index))
        attempt.slurm_job = slurm_job or attempt.slurm_job
        is_waiting = slurm_job is not None and slurm_job.is_waiting
        if is_waiting and not attempt.is_running:
            attempt.num_looks_after_end = 0
            return
        key = (submission.folder, index)
        if key not in notes:
            notes[key] = {note.run: note for note in submission.notes(index)}
        note = notes[key].get(attempt.job.name)
        is_over = slurm_job is None or slurm_job.is_over
        if (is_over or (note is not None and note.outcome is not None)) and self._has_ended(attempt, note):
            return
        if not is_over:
            is_running = not is_waiting and note is not None and note.outcome is None
            if is_running and not attempt.is_running:
                attempt.started = self._clock()
            attempt.is_running, attempt.num_looks_after_end = is_running, 0
            return
        attempt.num_looks_after_end += 1
        if attempt.num_looks_after_end >= _LOOKS_AFTER_END:
            self._lose(attempt, has_begun="" in notes[key])

    def _has_ended(self, attempt: SlurmAttempt, note: Note | None) -> bool:
        """Whether a run has an answer, or its job has given it up."""
        record = attempt.job.record
        if record.complete:
            with contextlib.suppress(UnreadableRecord):
                result = record.read_result()
                attempt.started = self._clock() - (sum(result.seconds.values()) if result else 0.0)
            return self._end(attempt, errors.COMPLETE, "")
        if record.diverged:
            return self._end(attempt, errors.DIVERGED, note.reason if note else "")
        if note is not None and note.outcome is RunState.FAILED:
            return self._end(attempt, errors.MISTAKE, note.reason)
        return False

    def _lose(self, attempt: SlurmAttempt, has_begun: bool) -> None:
        """The job of a run is over, and the run is not."""
        assert attempt.submission is not None
        state = attempt.slurm_job.state if attempt.slurm_job else ""
        told = attempt.slurm_job.state_and_reason if attempt.slurm_job else "Slurm no longer knows it"
        words = f"{attempt.label}: {told}"
        lines = without_blanks(tail(attempt.submission.log_path(attempt.index)))
        if state == "CANCELLED" or attempt.submission.is_cancelled:
            attempt.is_cancelled = True
            saved = "; its state is saved" if attempt.job.record.started else ""
            self._end(attempt, 128 + signal.SIGTERM, f"{words}{saved}")
        elif not has_begun and state in ("COMPLETED", "FAILED", "TIMEOUT"):
            attempt.log_path = attempt.submission.log_path(attempt.index)
            nothing = _NOTHING_SEEN.format(attempt.submission.folder)
            why = f": {exception_line(lines).removeprefix('error: ')}" if lines else nothing
            self._end(attempt, errors.MISTAKE, f"{words}, before its first run started{why}")
        elif state == "PREEMPTED":
            attempt.is_preempted = True
            self._end(attempt, 128 + signal.SIGTERM, words)
        elif state == "OUT_OF_MEMORY":
            self._end(attempt, errors.OUT_OF_MEMORY, words)
        else:
            self._end(attempt, _CRASH, f"{words}{f': {exception_line(lines)}' if lines else ''}")

    def _end(self, attempt: SlurmAttempt, code: int, reason: str) -> bool:
        attempt.reason = reason
        self._crashes[attempt.job.name] = attempt.crashes + (code == _CRASH)
        del self._attempts[attempt.job.name]
        attempt.ended(attempt, code)
        return True

    def release(self, attempt: Any) -> None:
        """Note that the end of a run was read, and close a submission once the ends of all its runs were."""
        submission = attempt.submission
        if submission is None:
            return
        with contextlib.suppress(OSError):
            submission.mark_read(attempt.job.name)
            if submission.read_names() >= submission.index_of.keys():
                submission.close()

    def fewer_neighbours(self, attempt: Any) -> None:
        """Submit a run that ran out of memory so that it has a device for itself."""
        self._alone.add(attempt.job.name)

    def crashed(self, attempt: Any) -> None:
        """Nothing: Slurm chooses the node, and the job on it the device."""

    refused = crashed

    def obstacle(self) -> str:
        """Nothing: `squeue` says why a job waits."""
        return ""

    def stop(self, number: int) -> None:
        """Cancel all jobs; Slurm lets the runs save their state."""
        for attempt in self._batch:
            attempt.is_cancelled = True
            self._end(attempt, 128 + signal.SIGTERM, "not submitted")
        self._batch = []
        submissions = {each.submission for each in self._attempts.values() if each.submission is not None}
        try:
            cancel_all(submissions)
        except (SlurmError, OSError) as error:
            self._say(f"the jobs cannot be cancelled: {error}")

    # -- telling -----------------------------------------------------------------------------------------------------

    def _tell(self) -> None:
        """Say in what states the jobs are, when a state or a reason is new."""
        ids = {each.submission.job_id for each in self._attempts.values() if each.submission is not None}
        under_way = (job for (array, _), job in self._jobs.items() if array in ids and not job.is_over)
        counts = Counter(job.state_and_reason for job in under_way)
        if counts.keys() - self._said:
            self._say("Slurm: " + ", ".join(f"{number} {kind}" for kind, number in counts.items()))
        self._said |= counts.keys()

    def _say_once(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self._say(text)


_NOTHING_SEEN = (
    ", and nothing that it printed is in {}: "
    "--results_dir must be on a file system that the nodes share with this machine"
)
