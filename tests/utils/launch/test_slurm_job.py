import os
import signal
import time
from dataclasses import replace

import pytest

from utils import slurm
from utils.launch.arguments import launch_parser
from utils.launch.cli import main
from utils.launch.cluster import make_cluster
from utils.launch.devices import Devices
from utils.launch.grid import change, find_grid, read_extras
from utils.launch.job import CommonOptions
from utils.launch.plan import make_plan
from utils.launch.slurm_job import _Share
from utils.launch.submission import Submission, SubmittedRun
from utils.records.state import RunState


@pytest.fixture
def submit(small_root, tmp_path):
    """Makes the folder of a submission of one run each of two seeds."""

    def make(**changed):
        common = CommonOptions(tmp_path / "results", "group", small_root, 1)
        grid = change(find_grid("demo"), {"seeds": (0, 1), "datasets": ("seq-arrays",), "methods": ("BN",)})
        grid = change(grid, {"models": ("er",), "epochs": (1,), "buffer_size": (20,)})
        plan = make_plan(grid, read_extras(["--n_tasks", "3", "--nf", "4", "--lr", "0.02", "--nowand"]), common)
        options, _ = launch_parser().parse_known_args(["--engine", "slurm"])
        in_job = make_cluster(options, 1, tmp_path / "logs").in_job
        axes = {"searched": [], "compared": []}
        sizes = {job.data.fingerprint: list(job.data.class_sizes) for job in plan.jobs}
        content = {"common": common.as_json(), "axes": axes, "in_job": in_job, "runs_per_job": 1, "class_sizes": sizes}
        runs = [SubmittedRun(job.name, job.words, job.data.fingerprint) for job in plan.jobs]
        return Submission.make(common.folder, {**content, **changed}, runs), [job.record for job in plan.jobs]

    return make


@pytest.mark.slow
def test_a_share_is_brought_to_its_end_and_only_once(submit, capsys, monkeypatch):
    submission, (record, other) = submit()
    words = ["slurm-job", str(submission.folder)]
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "0")
    assert main(words) == 0
    assert (record.complete, other.complete) == (True, False)
    noted = [(note.run, note.outcome) for note in submission.notes(0)]
    assert noted == [("", None), (record.folder.name, None), (record.folder.name, RunState.COMPLETE)]
    stamps = record.stamps()
    assert main([*words, "--index", "0"]) == 0
    assert record.stamps() == stamps


@pytest.mark.parametrize(("typed", "percent"), [(None, 50), (40.0, 40)])
def test_a_share_divides_the_gpu_that_it_has_been_given(submit, monkeypatch, typed, percent):
    monkeypatch.setattr(Devices, "mps_percent", 50)
    submission, _ = submit()
    content = submission.content
    common = CommonOptions.from_json(content["common"])
    submission, _ = submit(common=replace(common, mps_percent=typed).as_json())
    share = _Share(submission.folder, 0)
    engine = share._scheduler(())._engine
    assert engine._common.mps_percent == percent


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["slurm-job"], "give --index"),
        (["slurm-job", "--index", "0"], "give the folder of the submission"),
        (["slurm-job", "nowhere", "--index", "0"], "--results_dir must be on a file system that the nodes"),
    ],
)
def test_mistakes_are_told(words, told, capsys, monkeypatch):
    monkeypatch.delenv("SLURM_ARRAY_TASK_ID", raising=False)
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line


def test_a_job_that_is_not_there_is_told(submit, capsys):
    submission, _ = submit()
    assert main(["slurm-job", str(submission.folder), "--index", "2"]) == 2
    assert "has no job 2" in capsys.readouterr().err


def test_a_gpu_that_was_asked_for_and_is_none_is_told(submit, capsys):
    submission, _ = submit()
    content = submission.content["in_job"] | {"has_gpus": True}
    submission, _ = submit(in_job=content)
    assert main(["slurm-job", str(submission.folder), "--index", "0"]) == 2
    assert "a GPU was asked for, but the runs can use none" in capsys.readouterr().err
    assert submission.notes(0) == []


def test_code_that_has_changed_since_is_told(submit, capsys):
    submission, _ = submit()
    text = submission.runs_path.read_text()
    submission.runs_path.write_text(text.replace('"name": "seq', '"name": "former-seq'))
    assert main(["slurm-job", str(submission.folder), "--index", "0"]) == 2
    assert "has changed since it was submitted" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("state", "number", "has_saved", "is_cancelled", "is_queued"),
    [
        ("RUNNING", signal.SIGUSR1, True, False, True),
        ("RUNNING", signal.SIGTERM, False, False, True),
        ("RUNNING", signal.SIGUSR1, False, False, False),
        ("RUNNING", signal.SIGTERM, True, True, False),
        ("COMPLETING", signal.SIGTERM, True, False, False),
    ],
)
def test_a_job_queues_itself_again_unless_it_was_cancelled_or_gets_nowhere(
    submit, monkeypatch, state, number, has_saved, is_cancelled, is_queued
):
    queued = []
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setattr(slurm, "state_of", lambda job_id: state)
    monkeypatch.setattr(slurm, "requeue", queued.append)
    submission, (record, _) = submit()
    share = _Share(submission.folder, 0)
    record.folder.mkdir(parents=True)
    record.checkpoint_path.touch()
    if not has_saved:  # since the job has started
        os.utime(record.checkpoint_path, (time.time() - 100,) * 2)
    if is_cancelled:
        submission.mark_cancelled()
    share._queue_again([record], number)
    assert queued == (["7"] if is_queued else [])
    failed = [note.reason for note in submission.notes(0) if note.outcome is RunState.FAILED]
    assert ["give a longer --time" in reason for reason in failed] == [True] * (not is_queued and not has_saved)
