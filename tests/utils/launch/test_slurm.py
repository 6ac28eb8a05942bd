"""The engine with a Slurm that the test plays, whose clock is the test's."""

from dataclasses import dataclass, field

import pytest

from tests.utils.launch.rig import SilentBooks, SilentView
from utils import slurm
from utils.errors import UserError
from utils.launch.arguments import launch_parser
from utils.launch.cluster import make_cluster
from utils.launch.engine import Limits
from utils.launch.job import CommonOptions, Data
from utils.launch.scheduler import Scheduler
from utils.launch.slurm import SlurmEngine
from utils.launch.submission import Note, Submission, open_submissions
from utils.records.ledger import Axes
from utils.records.record import Record
from utils.records.state import RunState
from utils.slurm import SlurmError, SlurmJob


@dataclass
class Played:
    """What Slurm knows.

    Attributes:
        acts: called at every question with what was submitted and is not over, to say how it is now.
    """

    submitted: list = field(default_factory=list)
    cancelled: list = field(default_factory=list)
    states: dict = field(default_factory=dict)
    num_questions: int = 0
    refusals: list = field(default_factory=list)  # of the next submissions; empty where it takes one
    acts: object = lambda self: None

    def submit(self, script):
        if self.refusals and (reason := self.refusals.pop(0)):
            raise SlurmError(reason)
        self.submitted.append(script.parent)
        return str(len(self.submitted))

    def jobs_of(self, user=None, oldest=0.0):
        self.num_questions += 1
        self.acts(self)
        return [
            SlurmJob(
                str(number),
                index,
                f"{number}{index}",
                *self.states.get((number, index), ("PENDING", "Priority")),
                "n1",
                f"group.{folder.name.rpartition('-')[2]}",
            )
            for number, folder in enumerate(self.submitted, 1)
            for index in range(9)
            if (number, index) not in self.states or self.states[number, index] is not None
        ]


@pytest.fixture
def played(monkeypatch):
    made = Played()
    monkeypatch.setattr(slurm, "submit", made.submit)
    monkeypatch.setattr(slurm, "jobs_of", made.jobs_of)
    monkeypatch.setattr(slurm, "cancel", made.cancelled.extend)
    monkeypatch.setattr(slurm, "largest_array", lambda: 3)
    monkeypatch.setattr(slurm, "ASK_EVERY", 0.01)
    return made


@dataclass(frozen=True)
class Job:
    name: str
    record: Record
    words: tuple = ()
    data: Data = Data("data", (1,))  # noqa: RUF009
    axes: Axes = Axes()  # noqa: RUF009

    def state(self):
        return RunState.COMPLETE if self.record.complete else RunState.NOT_RUN


def jobs(root, number=4):
    return tuple(Job(f"run{each}", Record(root / "group" / f"run{each}")) for each in range(number))


def engine(root, *words):
    options, _ = launch_parser().parse_known_args(["--engine", "slurm", *words])
    common, view = CommonOptions(root, "group", root), SilentView()
    return SlurmEngine(common, make_cluster(options, 1, root / "logs"), Axes(), view.say), view


def launch(root, number=4, *words, waits=True):
    made, view = engine(root, *words)
    scheduler = Scheduler(jobs(root, number), made, Limits(waitsecs=0.01), view, SilentBooks())
    return scheduler.run(waits=waits), view


def complete(record):
    record.open().write_result({})
    record.close()


def do(played, root, number, outcome):
    """What the jobs of a submission do: run everything to such an end."""
    for submission in open_submissions(root / "group"):
        if submission.job_id != str(number):
            continue
        for run in submission.runs:
            index = submission.index_of[run.name]
            submission.note(index, Note(""))
            submission.note(index, Note(run.name))
            if outcome is RunState.COMPLETE:
                complete(Record(root / "group" / run.name))
            if outcome is not None:
                submission.note(index, Note(run.name, outcome, "why"))
            played.states[number, index] = ("COMPLETED", "None") if outcome else ("NODE_FAIL", "None")


def test_runs_are_submitted_in_arrays_as_large_as_slurm_takes(played, tmp_path):
    played.acts = lambda slurm: [do(slurm, tmp_path, number, RunState.COMPLETE) for number in (1, 2)]
    progress, view = launch(tmp_path, 7, "--runs_per_job", "2")
    assert progress.count(RunState.COMPLETE) == 7
    assert ["submitted 6 runs in 3 jobs" in view.lines[0], "submitted 1 run in 1 job" in view.lines[1]] == [True] * 2
    assert open_submissions(tmp_path / "group") == []


def test_what_a_dead_node_has_lost_is_submitted_again_within_the_bounds(played, tmp_path):
    played.acts = lambda slurm: do(slurm, tmp_path, len(slurm.submitted), None)
    progress, _ = launch(tmp_path, 1)
    assert len(played.submitted) == 3
    outcome, reason = progress.outcomes["run0"]
    assert outcome is RunState.FAILED
    assert reason.startswith("n1 (job 3_0): NODE_FAIL")


def test_the_bounds_hold_over_several_launchers(played, tmp_path):
    launch(tmp_path, 1, waits=False)
    for _ in range(2):
        do(played, tmp_path, len(played.submitted), None)
        progress, _ = launch(tmp_path, 1, waits=False)
    assert len(played.submitted) == 3
    do(played, tmp_path, 3, None)
    progress, _ = launch(tmp_path, 1, waits=False)
    assert progress.count(RunState.FAILED) == 1
    assert len(played.submitted) == 3


def test_what_a_job_has_given_up_is_not_submitted_again(played, tmp_path):
    played.acts = lambda slurm: do(slurm, tmp_path, 1, RunState.FAILED)
    progress, _ = launch(tmp_path, 1)
    assert progress.outcomes == {"run0": (RunState.FAILED, "why")}
    assert len(played.submitted) == 1


def test_a_preempted_job_is_submitted_again_however_often_that_is(played, tmp_path):
    def act(slurm):
        number = len(slurm.submitted)
        if number == 6:
            do(slurm, tmp_path, number, RunState.COMPLETE)
        slurm.states.setdefault((number, 0), ("PREEMPTED", "None"))

    played.acts = act
    progress, _ = launch(tmp_path, 1)
    assert progress.count(RunState.COMPLETE) == 1
    assert len(played.submitted) == 6


def test_the_runs_of_a_job_that_ran_out_of_memory_get_a_device_for_themselves(played, tmp_path):
    def act(slurm):
        slurm.states[1, 0] = ("OUT_OF_MEMORY", "None")
        do(slurm, tmp_path, 2, RunState.COMPLETE)

    played.acts = act
    progress, _ = launch(tmp_path, 2)
    assert progress.count(RunState.COMPLETE) == 2
    assert [[run.is_alone for run in Submission(folder).runs] for folder in played.submitted] == [
        [False] * 2,
        [True] * 2,
    ]


def test_a_job_that_somebody_cancels_has_stopped(played, tmp_path):
    def cancel(slurm):
        slurm.states = {(1, index): ("CANCELLED", "None") for index in range(9)}

    played.acts = cancel
    progress, _ = launch(tmp_path, 2)
    assert progress.count(RunState.STOPPED) == 2
    assert len(played.submitted) == 1


def test_a_launcher_finds_what_another_one_has_submitted_and_does_not_submit_it_again(played, tmp_path):
    launch(tmp_path, 3, waits=False)
    progress, view = launch(tmp_path, 4, waits=False)
    assert len(progress.queued) == 4
    assert [line for line in view.lines if "submitted" in line] == [view.lines[-1]]
    assert "submitted 1 run in" in view.lines[-1]


@pytest.mark.parametrize("is_known", [True, False])
def test_a_launcher_that_was_killed_while_it_submitted_has_its_jobs_found_by_name(played, tmp_path, is_known):
    launch(tmp_path, 2, waits=False)
    (submission,) = open_submissions(tmp_path / "group")
    submission.id_path.unlink()
    if not is_known:
        played.submitted = []
    launch(tmp_path, 2, waits=False)
    assert len(played.submitted) == 1
    assert submission.is_open == is_known


def test_jobs_at_a_time_are_bounded_over_several_arrays(played, tmp_path):
    launch(tmp_path, 4, "--runs_per_job", "1", "--jobs", "2", waits=False)
    first, second = ((folder / "job.sh").read_text() for folder in played.submitted)
    assert "--array=0-2%2" in first
    assert "--dependency" not in first
    assert "--array=0-0%2" in second
    assert "--dependency=afterany:1" in second


def test_a_refusal_is_told_in_slurms_words(played, tmp_path):
    played.refusals = ["Invalid account"]
    with pytest.raises(UserError, match="Slurm refuses the jobs: Invalid account"):
        launch(tmp_path, 1)
    assert open_submissions(tmp_path / "group") == []


def test_a_later_refusal_is_waited_out(played, tmp_path):
    played.refusals = ["", "the queue is full", "the queue is full"]
    played.acts = lambda slurm: do(
        slurm, tmp_path, len(slurm.submitted), None if len(slurm.submitted) == 1 else RunState.COMPLETE
    )
    progress, view = launch(tmp_path, 2)
    assert progress.count(RunState.COMPLETE) == 2
    assert sum("the queue is full" in line for line in view.lines) == 1


def test_slurm_is_asked_no_more_often_than_it_should_be(played, tmp_path, monkeypatch):
    monkeypatch.setattr(slurm, "ASK_EVERY", 10.0)
    made, _ = engine(tmp_path)
    now = [0.0]
    made._clock = lambda: now[0]
    for each in jobs(tmp_path):
        made.start(each, lambda attempt, code: None)
    for moment in (0.0, 0.0, 5.0, 9.9):
        now[0] = moment
        made.look()
    assert played.num_questions == 1
    assert made.patience() == pytest.approx(0.1)
    now[0] = 10.0
    made.look()
    assert played.num_questions == 2
