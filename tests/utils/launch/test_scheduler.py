import os
import signal
import threading
import time

import pytest

from tests.utils.launch.rig import SilentBooks, job, num_starts, scheduler
from utils.records.state import RunState


def outcomes(progress):
    return {name: outcome for name, (outcome, _) in progress.outcomes.items()}


def test_every_job_runs_once_and_never_more_at_a_time_than_there_are_places(tmp_path):
    jobs = [job(tmp_path, f"job{number}", seconds=0.1) for number in range(7)]
    run, devices, _ = scheduler(tmp_path, jobs, number=2)
    assert set(outcomes(run.run()).values()) == {RunState.COMPLETE}
    assert [num_starts(each) for each in jobs] == [1] * 7
    assert (devices.most_taken, devices.free) == (2, 2)


def test_next_run_starts_when_a_place_is_free_and_not_after_a_pause(tmp_path):
    jobs = [job(tmp_path, f"job{number}") for number in range(6)]
    started = time.monotonic()
    scheduler(tmp_path, jobs, number=1, waitsecs=30)[0].run()
    assert time.monotonic() - started < 15


def test_complete_ones_are_not_started(tmp_path):
    jobs = [job(tmp_path, "one"), job(tmp_path, "two")]
    scheduler(tmp_path, jobs)[0].run()
    progress = scheduler(tmp_path, jobs)[0].run()
    assert set(outcomes(progress).values()) == {RunState.COMPLETE}
    assert [num_starts(each) for each in jobs] == [1, 1]


@pytest.mark.parametrize(
    ("codes", "outcome", "starts"),
    [
        ("9,0", RunState.COMPLETE, 2),
        ("9", RunState.FAILED, 3),
        ("7,7,0", RunState.COMPLETE, 3),
        ("7", RunState.FAILED, 3),
        ("2", RunState.FAILED, 1),
        ("3", RunState.DIVERGED, 1),
        ("4,4,0", RunState.COMPLETE, 3),
        ("4", RunState.FAILED, 4),
        ("5", RunState.FAILED, 1),
        ("6,6,0", RunState.COMPLETE, 3),
    ],
)
def test_exit_codes_are_read(tmp_path, codes, outcome, starts):
    each = job(tmp_path, "job", codes=codes)
    run, devices, _ = scheduler(tmp_path, [each], refusals=3)
    assert outcomes(run.run()) == {"job": outcome}
    assert num_starts(each) == starts
    assert devices.lowered == codes.count("4,") + (starts - 1 if codes == "4" else 0)
    assert devices.free == 2


def test_a_failing_run_does_not_stop_the_others_and_shows_its_last_line(tmp_path):
    jobs = [job(tmp_path, "bad", codes=2, message="give --lr"), job(tmp_path, "good")]
    run, _, view = scheduler(tmp_path, jobs)
    assert outcomes(run.run()) == {"bad": RunState.FAILED, "good": RunState.COMPLETE}
    assert ("bad", RunState.FAILED, "give --lr") in view.ends


def test_a_run_that_claims_to_be_complete_without_a_result_has_crashed(tmp_path, monkeypatch):
    each = job(tmp_path, "job")
    run, _, _ = scheduler(tmp_path, [each])
    monkeypatch.setattr(type(each.record), "complete", property(lambda self: False))
    assert outcomes(run.run()) == {"job": RunState.FAILED}


def test_stops_early_when_the_first_runs_all_fail_the_same_way(tmp_path):
    jobs = [job(tmp_path, f"job{number}", codes=2, message="no such data") for number in range(20)]
    run, _, view = scheduler(tmp_path, jobs, number=1)
    progress = run.run()
    assert sum(num_starts(each) for each in jobs) == 3
    assert progress.num_waiting == 17
    assert any("no such data" in line for line in view.lines)


@pytest.mark.parametrize("done_before", [0, 2])
def test_crashes_stop_a_grid_early_too_whatever_was_complete_before(tmp_path, done_before):
    jobs = [job(tmp_path, f"job{number}", codes=1, message="boom in job") for number in range(20)]
    for each in jobs[:done_before]:
        each.record.open().write_result({})
        each.record.close()
    scheduler(tmp_path, jobs, number=1)[0].run()
    assert sum(num_starts(each) for each in jobs) == 3 * 3


def test_diverged_runs_never_stop_the_grid(tmp_path):
    jobs = [job(tmp_path, f"job{number}", codes=3) for number in range(6)]
    progress = scheduler(tmp_path, jobs)[0].run()
    assert progress.count(RunState.DIVERGED) == 6


def test_hanging_run_is_ended_after_the_timeout(tmp_path):
    jobs = [job(tmp_path, "hangs", seconds=60), job(tmp_path, "good")]
    started = time.monotonic()
    progress = scheduler(tmp_path, jobs, timeout=2.0, crashes=1)[0].run()
    assert time.monotonic() - started < 30
    assert outcomes(progress) == {"hangs": RunState.FAILED, "good": RunState.COMPLETE}
    assert "--timeout" in progress.outcomes["hangs"][1]


def test_plan_what_follows_and_every_end_are_written_down(tmp_path):
    jobs = [job(tmp_path, "good"), job(tmp_path, "bad", codes=2, message="give --lr")]
    more, books = job(tmp_path, "more"), SilentBooks()
    following = {"good": (more, jobs[1])}
    scheduler(tmp_path, jobs, number=1, books=books, follow=lambda each: following.get(each.name, ()))[0].run()
    assert (books.planned, books.added) == (["good", "bad"], ["more"])
    assert books.notes == [
        ("good", RunState.COMPLETE, ""),
        ("bad", RunState.FAILED, "give --lr"),
        ("more", RunState.COMPLETE, ""),
    ]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_stops_the_children_and_starts_nothing_more(tmp_path, number):
    jobs = [job(tmp_path, f"job{number}", seconds=30) for number in range(4)]
    run, devices, _ = scheduler(tmp_path, jobs)
    threading.Timer(1.5, lambda: os.kill(os.getpid(), number)).start()
    started = time.monotonic()
    progress = run.run()
    assert time.monotonic() - started < 15
    assert run.stopped_by == number
    assert progress.count(RunState.STOPPED) == 2
    assert progress.num_waiting == 2
    assert devices.free == 2


def test_program_that_cannot_be_started_is_named(tmp_path):
    run, devices, _ = scheduler(tmp_path, [job(tmp_path, "job")])
    devices.interpreter = "/nowhere/python"
    progress = run.run()
    assert "cannot be started" in progress.outcomes["job"][1]
    assert devices.free == 2


def test_a_run_that_was_complete_when_it_was_stopped_is_complete(tmp_path):
    books = SilentBooks()
    run = scheduler(tmp_path, [job(tmp_path, "job", seconds=30, finishes=1)], books=books)[0]
    threading.Timer(1.5, lambda: os.kill(os.getpid(), signal.SIGTERM)).start()
    assert outcomes(run.run()) == {"job": RunState.COMPLETE}
    assert books.notes == [("job", RunState.COMPLETE, "")]
