import pytest

from utils.launch.submission import Note, Submission, SubmittedRun, open_submissions
from utils.records.state import RunState

RUNS = tuple(SubmittedRun(f"run{number}", ("--seed", str(number)), "data", number) for number in range(5))


@pytest.fixture
def submission(tmp_path):
    return Submission.make(tmp_path / "group", {"runs_per_job": 2, "in_job": {}}, RUNS)


def test_jobs_take_the_runs_in_their_order(submission):
    again = Submission(submission.folder)
    assert again.runs == RUNS
    assert [again.runs_of(index) for index in range(3)] == [RUNS[:2], RUNS[2:4], RUNS[4:]]
    assert again.index_of == {"run0": 0, "run1": 0, "run2": 1, "run3": 1, "run4": 2}


def test_it_is_named_after_its_group_and_has_a_job_id_once_it_has(submission):
    assert submission.job_name.startswith("group.")
    assert submission.job_id is None
    submission.write_job_id("17")
    assert Submission(submission.folder).job_id == "17"


def test_notes_are_read_as_far_as_they_are_whole(submission):
    notes = [Note("", node="n1"), Note("run0"), Note("run0", RunState.FAILED, "boom")]
    for note in notes:
        submission.note(0, note)
    with (submission.folder / "0.jsonl").open("a") as file:
        file.write('{"run": "run1", "outc')
    assert submission.notes(0) == notes
    assert submission.notes(1) == []


@pytest.mark.parametrize("end", ["close", "mark_cancelled"])
def test_it_is_open_until_its_end_was_read_or_it_was_cancelled(submission, tmp_path, end):
    assert [each.folder for each in open_submissions(tmp_path / "group")] == [submission.folder]
    submission.mark_read("run1")
    assert submission.read_names() == {"run1"}
    getattr(submission, end)()
    assert open_submissions(tmp_path / "group") == []
    assert submission.is_cancelled == (end == "mark_cancelled")


def test_one_of_another_version_says_so(submission):
    submission.content_path.write_text('{"schema": 99}')
    with pytest.raises(ValueError, match="another version"):
        _ = Submission(submission.folder).content
