"""Disks, processes and folders that are not as they should be: one clear line, and the rest goes on."""

import errno
import os
import signal
import threading
import time

import pytest

from tests.utils.launch.rig import FakeJob, job, num_starts, scheduler
from utils.records.collect import read_run
from utils.records.record import Record
from utils.records.state import RunState


def outcomes(progress):
    return {name: outcome for name, (outcome, _) in progress.outcomes.items()}


def test_a_full_disk_of_one_run_is_not_tried_again_and_the_others_go_on(tmp_path):
    jobs = [job(tmp_path, "first"), job(tmp_path, "full", codes=5, message="No space left"), job(tmp_path, "last")]
    progress = scheduler(tmp_path, jobs, number=1)[0].run()
    assert outcomes(progress) == {"first": RunState.COMPLETE, "full": RunState.FAILED, "last": RunState.COMPLETE}
    assert progress.outcomes["full"][1] == "No space left"
    assert num_starts(jobs[1]) == 1


def test_logs_that_cannot_be_written_any_more_stop_no_run(tmp_path, capsys):
    jobs = [job(tmp_path, name) for name in ("one", "two")]
    run, _, _ = scheduler(tmp_path, jobs, number=1)
    (tmp_path / "logs").rmdir()
    (tmp_path / "logs").write_text("a file")
    assert set(outcomes(run.run()).values()) == {RunState.COMPLETE}
    assert capsys.readouterr().out.count("cannot write") == 1


@pytest.mark.parametrize(("num_failures", "outcome"), [(2, RunState.COMPLETE), (3, RunState.FAILED)])
def test_a_start_that_fails_is_tried_again_a_few_times(tmp_path, num_failures, outcome):
    run, devices, view = scheduler(tmp_path, [job(tmp_path, "job")])
    start, failures = run._engine.start, []

    def start_at_last(*arguments):
        if len(failures) < num_failures:
            failures.append(arguments)
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return start(*arguments)

    run._engine.start = start_at_last
    assert outcomes(run.run()) == {"job": outcome}
    assert devices.free == 2
    assert len(view.ends) == 1


def test_an_interpreter_that_went_away_stops_the_launcher_early(tmp_path):
    jobs = [job(tmp_path, f"job{number}") for number in range(9)]
    run, devices, view = scheduler(tmp_path, jobs, crashes=1)
    devices.interpreter = "/nowhere/python"
    progress = run.run()
    assert progress.count(RunState.FAILED) == 3
    assert any("failed in the same way" in line and "/nowhere/python" in line for line in view.lines)


def test_a_folder_that_another_process_writes_is_left_alone_until_it_is_free(tmp_path):
    held, free = job(tmp_path, "held"), job(tmp_path, "free")
    holder = Record(held.record.folder).open()
    holder.write_config({})
    run, devices, _ = scheduler(tmp_path, [held, free])
    seen = []
    threading.Timer(1.5, lambda: (seen.append((num_starts(held), free.record.complete)), holder.close())).start()
    assert outcomes(run.run()) == {"held": RunState.COMPLETE, "free": RunState.COMPLETE}
    assert seen == [(0, True)]
    assert num_starts(held) == 1
    assert devices.free == 2


def test_a_run_that_another_process_completes_is_not_started(tmp_path):
    held = job(tmp_path, "held")
    holder = Record(held.record.folder).open()
    run, _, _ = scheduler(tmp_path, [held])
    threading.Timer(0.5, lambda: (holder.write_result({}), holder.close())).start()
    assert outcomes(run.run()) == {"held": RunState.COMPLETE}
    assert num_starts(held) == 0


def test_a_run_that_hears_no_sigterm_is_ended_after_the_grace(tmp_path):
    run, devices, _ = scheduler(tmp_path, [job(tmp_path, "deaf", deaf=1, seconds=60)], grace=0.5)
    threading.Timer(1.5, lambda: os.kill(os.getpid(), signal.SIGTERM)).start()
    started = time.monotonic()
    progress = run.run()
    assert time.monotonic() - started < 20
    assert progress.outcomes == {"deaf": (RunState.STOPPED, "killed before it stopped by itself")}
    assert devices.free == 2


def test_a_second_signal_does_not_wait_for_the_grace(tmp_path):
    run, _, _ = scheduler(tmp_path, [job(tmp_path, "deaf", deaf=1, seconds=60)], grace=100.0)
    for seconds in (1.5, 2.0):
        threading.Timer(seconds, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    started = time.monotonic()
    assert run.run().count(RunState.STOPPED) == 1
    assert time.monotonic() - started < 20
    assert run.stopped_by == signal.SIGINT


def test_a_run_that_hangs_is_ended_after_the_grace_and_tried_again(tmp_path):
    hanging = job(tmp_path, "hangs", deaf=1, seconds=60)
    run, _, view = scheduler(tmp_path, [hanging], timeout=1.0, grace=0.5, crashes=2)
    assert "--timeout 1 s and did not stop when asked" in run.run().outcomes["hangs"][1]
    assert ["restarted: it took longer than --timeout 1 s" in line for line in view.lines] == [True]
    assert num_starts(hanging) == 2


def test_a_run_that_is_slow_saves_its_state_and_is_not_tried_again(tmp_path):
    slow = job(tmp_path, "slow", saves=1, seconds=60)
    run, devices, _ = scheduler(tmp_path, [slow], timeout=1.5, grace=60.0)
    started = time.monotonic()
    (outcome, reason) = run.run().outcomes["slow"]
    assert time.monotonic() - started < 30
    assert outcome is RunState.FAILED
    assert reason == "it took longer than --timeout 1.5 s; the same command resumes it"
    assert (num_starts(slow), devices.free) == (1, 2)


def test_a_stop_that_comes_while_a_slow_run_saves_its_state_is_a_stop(tmp_path):
    run, _, _ = scheduler(tmp_path, [job(tmp_path, "deaf", deaf=1, seconds=60)], timeout=1.0, grace=1.5)
    threading.Timer(1.8, lambda: os.kill(os.getpid(), signal.SIGTERM)).start()
    assert run.run().outcomes == {"deaf": (RunState.STOPPED, "killed before it stopped by itself")}


def test_a_start_that_fails_is_told_as_such_and_not_as_another_process(tmp_path):
    program = tmp_path / "program"
    program.write_bytes(bytes(100))
    program.chmod(0o755)
    run, devices, view = scheduler(tmp_path, [job(tmp_path, "job")])
    devices.interpreter = str(program)
    outcome, reason = run.run().outcomes["job"]
    assert outcome is RunState.FAILED
    assert reason.startswith("cannot be started: ")
    assert view.lines == [f"job cannot be started ([Errno 8] Exec format error: {str(program)!r}): will be retried"]
    assert devices.free == 2


@pytest.mark.parametrize("saves", [{}, {"saves": 1}])
def test_a_stopped_run_says_that_its_state_is_saved_only_if_there_is_one(tmp_path, saves):
    stopped = job(tmp_path, "stopped", seconds=60, quits=1, **saves)
    run, _, _ = scheduler(tmp_path, [stopped])
    threading.Timer(1.5, lambda: os.kill(os.getpid(), signal.SIGTERM)).start()
    reason = "its state is saved" if saves else "stopped before there was a state to save"
    assert run.run().outcomes == {"stopped": (RunState.STOPPED, reason)}


@pytest.mark.parametrize(
    ("codes", "outcome", "starts", "lowered"),
    [
        ("-9,0", RunState.COMPLETE, 2, 1),
        ("-9,4,7,0", RunState.COMPLETE, 4, 2),
        ("-9", RunState.FAILED, 4, 3),
        ("-15", RunState.FAILED, 3, 0),
    ],
)
def test_a_run_that_the_system_has_ended_is_taken_for_one_out_of_memory(tmp_path, codes, outcome, starts, lowered):
    each = job(tmp_path, "job", codes=codes)
    run, devices, _ = scheduler(tmp_path, [each])
    assert outcomes(run.run()) == {"job": outcome}
    assert (num_starts(each), devices.lowered, devices.free) == (starts, lowered, 2)


def test_a_run_that_the_system_has_ended_goes_to_the_end(tmp_path):
    jobs = [job(tmp_path, "large", codes="-9,0"), job(tmp_path, "one"), job(tmp_path, "two")]
    run, _, view = scheduler(tmp_path, jobs, number=1)
    run.run()
    assert [name for name, _, _ in view.ends] == ["one", "two", "large"]
    assert [
        line.startswith("large ran out of memory on somewhere and will be restarted beside fewer runs: ")
        for line in view.lines
    ] == [True]


def test_a_run_that_the_launcher_has_ended_is_not_taken_for_one_out_of_memory(tmp_path):
    run, devices, _ = scheduler(
        tmp_path, [job(tmp_path, "deaf", deaf=1, seconds=60)], timeout=1.0, grace=0.5, crashes=1
    )
    assert outcomes(run.run()) == {"deaf": RunState.FAILED}
    assert devices.lowered == 0


class DamagedJob(FakeJob):
    """Its record is damaged until a run has written it."""

    def state(self):
        state = read_run(self.record.folder).state
        return RunState.DAMAGED if state is RunState.DAMAGED else super().state()


def test_a_damaged_record_that_a_process_holds_is_left_alone(tmp_path):
    each = DamagedJob("job", ("--name", "job"), Record(tmp_path / "group" / "job"))
    holder = Record(each.record.folder).open()
    holder.write_result({})
    run, _, _ = scheduler(tmp_path, [each])
    seen = []
    threading.Timer(1.0, lambda: (seen.append(num_starts(each)), holder.close())).start()
    assert outcomes(run.run()) == {"job": RunState.COMPLETE}
    assert seen == [0]
    assert sorted(path.name for path in each.record.folder.parent.glob("job*")) == ["job", "job.damaged-1"]


def test_a_damaged_record_in_a_folder_that_cannot_be_written_is_a_failure_of_the_disk(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    each = DamagedJob("job", ("--name", "job"), Record(tmp_path / "group" / "job"))
    each.record.open().write_result({})
    each.record.close()
    monkeypatch.setattr(Record, "set_aside", refuse)
    run, _, _ = scheduler(tmp_path, [each])
    progress = run.run()
    assert progress.outcomes["job"][1].startswith("its record is damaged and cannot be set aside: ")
    assert progress.is_disk_at_fault
