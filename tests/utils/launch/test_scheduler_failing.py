"""Runs on two GPUs of which one does not do its work, and a launcher whose look at the GPUs takes long."""

import os
import signal
import threading
import time

import pytest

from tests.utils.launch.rig import job, num_starts, scheduler
from utils import errors
from utils.launch import devices
from utils.launch.devices import Devices
from utils.launch.gpus import Gpu
from utils.records.state import RunState

BROKEN, SOUND = "GPU-broken", "GPU-sound"
BAD_CODES = [1, -signal.SIGSEGV, errors.NO_DEVICE]


@pytest.fixture(autouse=True)
def many_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(64), raising=False)


def prepared(folder, jobs, gpus=(BROKEN, SOUND), look=None, runs_per_gpu=1, **limits):
    """A scheduler of stand-in runs on GPUs, with the lines that it and its devices say."""
    made, _, view = scheduler(folder, jobs, waitsecs=0.1, **limits)
    found = [Gpu(name, index, "NVIDIA A100", name, 0.0, 0.0, 40000.0) for index, name in enumerate(gpus)]
    shared = Devices(look=look or (lambda: found), waitsecs=0.1, runs_per_gpu=runs_per_gpu, say=view.say)
    made._engine._devices = shared
    return made, view.lines


def outcomes(progress):
    return {name: outcome for name, (outcome, _) in progress.outcomes.items()}


@pytest.mark.parametrize("code", BAD_CODES)
def test_a_broken_gpu_costs_no_run(tmp_path, code):
    jobs = [job(tmp_path, f"run{index}", bad=BROKEN, bad_code=code, seconds=0.1) for index in range(8)]
    made, said = prepared(tmp_path, jobs)
    assert set(outcomes(made.run()).values()) == {RunState.COMPLETE}
    assert all(num_starts(each) <= 2 for each in jobs)
    assert sum(num_starts(each) for each in jobs) <= 8 + 2  # and then it rests
    assert any("GPU 0 is left alone for 10 s" in line for line in said)
    assert not any("out of memory" in line for line in said)


@pytest.mark.parametrize("code", BAD_CODES)
def test_what_failed_on_a_broken_gpu_waits_for_a_sound_one_that_is_taken(tmp_path, monkeypatch, code):
    monkeypatch.setattr(devices, "REST", 0.1)
    long = job(tmp_path, "long", seconds=2.5)
    others = [job(tmp_path, f"run{index}", bad=BROKEN, bad_code=code) for index in range(4)]
    made, _ = prepared(tmp_path, [long, *others], gpus=(SOUND, BROKEN))
    assert set(outcomes(made.run()).values()) == {RunState.COMPLETE}


def test_what_crashes_everywhere_fails_and_stops_the_grid(tmp_path):
    jobs = [job(tmp_path, f"run{index}", codes=1, message="a mistake in the code") for index in range(6)]
    made, said = prepared(tmp_path, jobs)
    found = outcomes(made.run())
    failed = [each for each in jobs if found.get(each.name) is RunState.FAILED]
    assert [num_starts(each) for each in failed] == [3, 3, 3]
    assert said[-1] == "the first 3 runs all failed in the same way: a mistake in the code"


def test_where_a_run_failed_is_said(tmp_path):
    made, said = prepared(tmp_path, [job(tmp_path, "run", codes="1,0", message="why")], gpus=(BROKEN,))
    assert outcomes(made.run()) == {"run": RunState.COMPLETE}
    assert said == ["run failed on GPU 0 and is restarted: why"]


def test_the_only_gpu_is_tried_again_after_it_took_no_process(tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "REST", 0.1)
    one = job(tmp_path, "run", codes="7,7,0", message="the GPU takes no further process")
    made, said = prepared(tmp_path, [one], gpus=(BROKEN,))
    assert outcomes(made.run()) == {"run": RunState.COMPLETE}
    assert said == [
        "run is put off: the GPU takes no further process",
        "GPU 0 is left alone for 0.1 s: it takes no process of ours",
        "run is put off: the GPU takes no further process",
        "GPU 0 is left alone for 0.2 s: it takes no process of ours",
    ]


def test_why_nothing_runs_is_said_once(tmp_path):
    busy = Gpu(SOUND, 0, "NVIDIA A100", SOUND, 0.97, 0.0, 40000.0)
    idle = Gpu(SOUND, 0, "NVIDIA A100", SOUND, 0.0, 0.0, 40000.0)
    looks = iter([[busy], [busy], [busy]])
    made, said = prepared(tmp_path, [job(tmp_path, "run")], look=lambda: next(looks, [idle]))
    assert outcomes(made.run()) == {"run": RunState.COMPLETE}
    assert said == [
        "1 waiting: GPU 0: others keep it busy for 97 % of the time "
        "(idle is less than --usage_threshold 0.3; CUDA_VISIBLE_DEVICES= uses the CPU)"
    ]


def gpu_of(index, used=0.0, total=40000.0):
    return Gpu(f"GPU-{index}", index, "NVIDIA A100", f"GPU-{index}", 0.0, used, total)


@pytest.mark.parametrize("code", [1, errors.NO_DEVICE])
def test_what_failed_once_goes_back_if_the_other_gpu_is_in_use(tmp_path, monkeypatch, code):
    monkeypatch.setattr(devices, "REST", 0.1)
    one = job(tmp_path, "run", codes=f"{code},0")
    made, _ = prepared(tmp_path, [one], look=lambda: [gpu_of(0), gpu_of(1, used=39000.0)])
    assert outcomes(made.run()) == {"run": RunState.COMPLETE}


def test_what_failed_once_goes_to_no_gpu_that_is_too_small():
    shared = Devices(look=lambda: [gpu_of(0, total=80000.0), gpu_of(1, total=8000.0)], say=lambda text: None, jobs=9)
    assert shared.acquire(30000.0, {"GPU-0"}).device == "GPU-0"
    assert shared.acquire(5000.0, {"GPU-0"}).device == "GPU-1"


def test_what_ends_many_runs_at_once_is_one_failure():
    said = []
    shared = Devices(look=lambda: [gpu_of(0), gpu_of(1)], say=said.append, runs_per_gpu=8, jobs=16)
    slots = [slot for slot in (shared.acquire() for _ in range(16)) if slot.device == "GPU-0"]
    for slot in slots:
        shared.release(slot)
        shared.crashed(slot)
    assert said == ["GPU 0 is left alone for 10 s: the last 2 runs there failed"]


def test_what_each_gpu_does_is_said(tmp_path):
    looks = [[gpu_of(0), gpu_of(1), gpu_of(2)], [gpu_of(1, used=30000.0), gpu_of(2)]]
    shared = Devices(look=lambda: looks.pop(0), waitsecs=60.0, runs_per_gpu=1, say=lambda text: None)
    slots = [shared.acquire() for _ in range(3)]
    for slot in slots:
        shared.release(slot)
    shared.refused(slots[2])
    assert shared.acquire() is None
    assert shared.obstacle() == (
        "GPU 0 no longer responds; GPU 1: others hold 30,000 of its 40,000 MiB; GPU 2 is left alone for 10 s "
        "(idle is less than --usage_threshold 0.3; CUDA_VISIBLE_DEVICES= uses the CPU)"
    )


def test_a_signal_that_comes_while_the_launcher_prints_stops_the_runs(tmp_path):
    """A stream that is being written to cannot be entered again, and says so by an error."""
    one = job(tmp_path, "one", saves=1, seconds=60)
    made, said = prepared(tmp_path, [one])

    def say(text):
        raise RuntimeError("reentrant call inside <_io.BufferedWriter name='<stdout>'>")

    made._view.say = say
    threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()
    assert outcomes(made.run())["one"] is RunState.STOPPED
    assert said == []


def test_a_signal_reaches_the_runs_while_the_launcher_waits_to_see_the_gpus(tmp_path):
    one, two = job(tmp_path, "one", saves=1, seconds=60), job(tmp_path, "two")
    found = [Gpu(name, index, "NVIDIA A100", name, 0.0, 0.0, 40000.0) for index, name in enumerate((SOUND, BROKEN))]
    was_over = []

    def look():
        if (one.record.folder / "checkpoint.pt").exists():  # it runs: now the question hangs
            threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
            time.sleep(3)
            was_over.append(made._engine._children["one"].process.poll() is not None)
        return found

    made, said = prepared(tmp_path, [one, two], look=look, coldsecs=1.0)
    progress = made.run()
    assert outcomes(progress)["one"] is RunState.STOPPED
    assert was_over == [True]
    assert said.count("stopping: the runs save their state; a second signal (Ctrl-C) kills them") == 1
