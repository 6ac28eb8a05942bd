"""Runs that were submitted to Slurm as one array of jobs: a folder beside the records, `<group>/slurm/<name>/`.

| file | what |
|---|---|
| `submission.json` | what all of its jobs need to know |
| `runs.jsonl` | a line per run; each job takes the next `runs_per_job` of them |
| `job.sh` | the batch script |
| `job_id` | Slurm's number of the array |
| `<index>.txt` | what a job printed |
| `<index>.jsonl` | what has become of its runs, a line each time |
| `read` | the runs whose end a launcher has read |
| `cancelled`, `closed` | marks: it was cancelled on request; the ends of all of its runs have been read |

Nothing here imports torch.
"""

import contextlib
import json
import secrets
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from utils import slurm
from utils.records.content import SCHEMA_VERSION, load_json
from utils.records.record import write_atomically
from utils.records.state import RunState
from utils.slurm import SlurmJob

FOLDER = "slurm"  # in the folder of a group


@dataclass(frozen=True)
class SubmittedRun:
    """What a job is told about one of its runs.

    Attributes:
        name: of its folder.
        words: its command line after `utils/main.py`, without the common options.
        fingerprint: of its data.
        crashes: how often it has crashed so far.
        is_alone: whether no other run may share its device, as it ran out of memory.
    """

    name: str
    words: tuple[str, ...]
    fingerprint: str
    crashes: int = 0
    is_alone: bool = False


@dataclass(frozen=True)
class Note:
    """What a job has noted about one of its runs, or about itself.

    Attributes:
        run: its name; empty where the job itself has started.
        outcome: how it ended; None: it was started.
        reason: why it ended so.
        node: where the job runs.
    """

    run: str
    outcome: RunState | None = None
    reason: str = ""
    node: str = ""


class Submission:
    """The folder of a submission: all of its paths, and what is in them.

    Args:
        folder: its path.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.content_path = folder / "submission.json"
        self.runs_path = folder / "runs.jsonl"
        self.script_path = folder / "job.sh"
        self.id_path = folder / "job_id"
        self._read_path = folder / "read"
        self._cancelled_path = folder / "cancelled"
        self._closed_path = folder / "closed"

    @classmethod
    def make(cls, group: Path, content: Mapping[str, Any], runs: Iterable[SubmittedRun]) -> "Submission":
        """A new one in the folder of a group. Raises OSError, DiskError."""
        name = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
        submission = cls(group / FOLDER / name)
        submission.folder.mkdir(parents=True)
        lines = "".join(json.dumps(asdict(run)) + "\n" for run in runs)
        write_atomically(submission.runs_path, lambda file: file.write(lines.encode()))
        text = json.dumps({"schema": SCHEMA_VERSION, **content}, indent=1)
        write_atomically(submission.content_path, lambda file: file.write(text.encode()))
        return submission

    @property
    def job_name(self) -> str:
        """The name of its array, by which it is found where its number was not written in time."""
        return f"{self.folder.parent.parent.name}.{self.folder.name.rpartition('-')[2]}"

    @property
    def job_id(self) -> str | None:
        """Slurm's number of the array; None as long as it is not known."""
        try:
            return self.id_path.read_text(encoding="utf-8").strip() or None
        except OSError:
            return None

    def write_job_id(self, job_id: str) -> None:
        """Note Slurm's number of the array. Raises DiskError."""
        write_atomically(self.id_path, lambda file: file.write(job_id.encode()))

    @cached_property
    def content(self) -> dict[str, Any]:
        """What all jobs need to know. Raises OSError, ValueError."""
        content = load_json(self.content_path.read_bytes())
        if content.get("schema") != SCHEMA_VERSION:
            raise ValueError(f"{self.content_path} is of another version")
        return content

    @cached_property
    def runs(self) -> tuple[SubmittedRun, ...]:
        """All of its runs. Raises OSError, ValueError."""
        lines = map(load_json, self.runs_path.read_bytes().splitlines())
        return tuple(SubmittedRun(**{**line, "words": tuple(line["words"])}) for line in lines)

    @property
    def runs_per_job(self) -> int:
        """How many runs a job takes."""
        return int(self.content["runs_per_job"])

    @property
    def num_jobs(self) -> int:
        """Jobs of the array, of which the last one may have fewer runs."""
        return -(-len(self.runs) // self.runs_per_job)

    def runs_of(self, index: int) -> Sequence[SubmittedRun]:
        """The runs of one of its jobs, by its index in the array."""
        return self.runs[index * self.runs_per_job : (index + 1) * self.runs_per_job]

    @cached_property
    def index_of(self) -> dict[str, int]:
        """Which job of the array has a run, by the run's name."""
        return {run.name: number // self.runs_per_job for number, run in enumerate(self.runs)}

    def log_path(self, index: int) -> Path:
        """What a job printed."""
        return self.folder / f"{index}.txt"

    def note(self, index: int, note: Note) -> None:
        """Note what has become of a run of a job, or that the job has started. Raises OSError."""
        with (self.folder / f"{index}.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(note)) + "\n")

    def notes(self, index: int) -> list[Note]:
        """What a job has noted since it last started; a line that a crash has cut is left out."""
        try:
            lines = (self.folder / f"{index}.jsonl").read_bytes().splitlines()
        except OSError:
            return []
        return [note for note in map(_read_note, lines) if note is not None]

    @property
    def is_cancelled(self) -> bool:
        """Whether it was cancelled on request."""
        return self._cancelled_path.exists()

    def mark_cancelled(self) -> None:
        """From now on none of its jobs starts again. Raises OSError."""
        self._cancelled_path.touch()

    def mark_read(self, name: str) -> None:
        """A launcher has read how a run ended. Raises OSError."""
        with self._read_path.open("a", encoding="utf-8") as file:
            file.write(f"{name}\n")

    def read_names(self) -> set[str]:
        """The runs whose end a launcher has read."""
        try:
            return set(self._read_path.read_text(encoding="utf-8").splitlines())
        except OSError:
            return set()

    def close(self) -> None:
        """The ends of all of its runs have been read."""
        with contextlib.suppress(OSError):
            self._closed_path.touch()

    @property
    def is_open(self) -> bool:
        """Whether its end has yet to be read; of one that was cancelled, nobody waits for it."""
        if self._closed_path.exists() or self._cancelled_path.exists():
            return False
        try:
            return bool(self.index_of)
        except (OSError, ValueError, LookupError, TypeError):  # one that is not whole has no jobs
            return False


def open_submissions(group: Path) -> list[Submission]:
    """The submissions of a group whose end has yet to be read, oldest first."""
    found = [Submission(folder) for folder in sorted((group / FOLDER).glob("*/"))]
    return [submission for submission in found if submission.is_open]


def cancel_all(submissions: Iterable[Submission]) -> list[str]:
    """Cancel all jobs of submissions; gives their job ids. Raises SlurmError, OSError."""
    ids = []
    for submission in submissions:
        submission.mark_cancelled()
        ids += [submission.job_id] if submission.job_id else []
    slurm.cancel(ids)
    return ids


def jobs_by_run(submissions: Iterable[Submission]) -> dict[str, SlurmJob]:
    """The Slurm jobs that have, or had, the runs of submissions, as they were ten seconds ago or later.

    Raises:
        SlurmError: Slurm does not answer.
    """
    known: dict[str, dict[int, SlurmJob]] = defaultdict(dict)
    for job in slurm.jobs_of(oldest=slurm.ASK_EVERY):
        known[job.array][job.index] = job
    found: dict[str, SlurmJob] = {}
    for submission in submissions:
        jobs = known.get(submission.job_id or "", {})
        found.update({name: jobs[index] for name, index in submission.index_of.items() if index in jobs})
    return found


def _read_note(line: bytes) -> Note | None:
    """The note of a line; None if the line is incomplete."""
    try:
        content = load_json(line)
        outcome = content["outcome"]
        return Note(**{**content, "outcome": None if outcome is None else RunState(outcome)})
    except (ValueError, LookupError, TypeError):
        return None
