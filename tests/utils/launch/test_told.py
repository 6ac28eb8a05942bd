import io
import os

import pytest
from rich.console import Console

from utils.launch.told import last_progress, read_told
from utils.records.record import Record
from utils.run.progress import Screen

STAGES = ((10,), (20, 30), (20, 30))


@pytest.fixture
def record(tmp_path):
    return Record(tmp_path / "run").open()


def said(record, title, done, total, monkeypatch, loss=0.25):
    """The line of progress that a run prints and logs, as its screen words it."""
    monkeypatch.setattr("utils.run.progress.PLAIN_INTERVAL", 0.0)
    screen = Screen(console=Console(file=io.StringIO()))
    screen.log = record.append_log
    screen.begin(title, 0, total)
    screen.advance(done, loss)


def after(earlier, later):
    """Make one file the one that was written last."""
    os.utime(earlier, (1000, 1000))
    os.utime(later, (2000, 2000))


def train(record, **more):
    record.append_metrics({"kind": "train", "task": 1, "step": 50, "loss": 0.75} | more)


def test_a_run_that_has_written_nothing_tells_nothing(record):
    assert read_told(record) is None
    assert last_progress(record) == ""


def test_a_run_that_has_begun_is_in_its_first_task(record):
    record.append_log("er on seq-digits")
    assert last_progress(record) == "task 1"
    assert read_told(record).steps_done(STAGES) == 0


@pytest.mark.parametrize(
    ("title", "words", "steps"),
    [
        ("task 1/3", "task 1, step 7/30, loss 0.2500", 7),
        ("task 2/3, stage 1/2", "task 2, step 7/30, loss 0.2500", 10 + 7),
        ("task 2/3, stage 2/2", "task 2, step 7/30, loss 0.2500", 30 + 7),
        ("task 3/3, stage 2/2, epoch 4/10", "task 3, epoch 4/10, step 7/30, loss 0.2500", 80 + 7),
        ("task 3/3, epoch 4/10", "task 3, epoch 4/10, step 7/30, loss 0.2500", 60 + 7),
    ],
)
def test_lines_of_plain_progress_are_understood(record, monkeypatch, title, words, steps):
    said(record, title, 7, 30, monkeypatch)
    assert last_progress(record) == words
    assert read_told(record).steps_done(STAGES) == steps
    assert read_told(record).steps_done(None) is None


def test_a_loss_that_is_not_read_yet_is_told_as_such(record, monkeypatch):
    said(record, "task 1/3", 7, 30, monkeypatch, loss=None)
    assert last_progress(record) == "task 1, step 7/30, loss –"


def test_a_task_beyond_those_that_are_planned_tells_no_steps(record, monkeypatch):
    for title in ("task 4/4", "task 3/3, stage 3/3"):
        said(record, title, 7, 30, monkeypatch)
        assert read_told(record).steps_done(STAGES) is None


def test_batches_of_a_stage_that_only_measures_are_no_steps(record, monkeypatch):
    said(record, "task 2/2, stage 2/2", 7, 30, monkeypatch)
    assert read_told(record).steps_done(((10,), (20, 0))) == 30


def test_what_was_written_last_is_told(record, monkeypatch):
    said(record, "task 2/3", 45, 60, monkeypatch)
    train(record)
    after(record.metrics_path, record.log_path)
    assert last_progress(record) == "task 2, step 45/60, loss 0.2500"
    after(record.log_path, record.metrics_path)
    assert last_progress(record) == "task 2, step 50, loss 0.750"
    assert read_told(record).steps_done(None) == 50


def test_a_task_that_is_over_is_told_so(record, monkeypatch):
    said(record, "task 2/3", 45, 60, monkeypatch)
    train(record)
    record.append_metrics({"kind": "evaluation", "task": 1, "step": 60, "class_il": [1.0]})
    record.append_log("after task 2/3: Class-IL 1.00 %  Task-IL 1.00 %")
    after(record.metrics_path, record.log_path)
    assert last_progress(record) == "task 2 done, step 60"
    assert read_told(record).steps_done(STAGES) == 60


@pytest.mark.parametrize(
    "line", ["task 9", "task x/5  step 1/2  loss 1  ", "note: task 1/5", "task 1/5  step 1/2", "\x00" * 50, "[" * 9999]
)
def test_other_lines_are_no_progress(record, line):
    record.append_log(line)
    assert last_progress(record) == "task 1"


def test_folders_in_the_place_of_files_tell_nothing(record):
    record.metrics_path.mkdir()
    record.log_path.mkdir()
    assert read_told(record) is None
