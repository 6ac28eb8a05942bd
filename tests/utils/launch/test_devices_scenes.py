"""What happens on a machine with GPUs, as `Devices` sees it by GPUtil and `nvidia-smi`."""

import os

import pytest

from tests.utils.launch.gpu_rig import Clock, FakeNvidiaSmi, row, uuid
from utils.launch import gpu_watcher
from utils.launch.devices import Devices
from utils.launch.gpu_watcher import GpuWatcher

WAIT = 5.0


@pytest.fixture(autouse=True)
def many_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(64), raising=False)
    monkeypatch.setattr("utils.launch.packing.AT_ONCE", 4)


@pytest.fixture
def scene(tmp_path, monkeypatch):
    (tmp_path / "dev").mkdir()
    monkeypatch.setattr(gpu_watcher, "DEVICE_FOLDER", tmp_path / "dev")
    smi = FakeNvidiaSmi(tmp_path, monkeypatch)
    smi.clock, smi.said = Clock(), []
    watcher = GpuWatcher(smi.said.append, {"CUDA_VISIBLE_DEVICES": "0,1"}, clock=smi.clock)
    smi.devices = Devices(say=smi.said.append, look=watcher.look, clock=smi.clock, waitsecs=WAIT)
    return smi


def test_a_foreign_job_comes_and_goes(scene):
    scene.play(row(0, load=95, used=30000), row(1, used=3), row(2))
    first, second = scene.devices.acquire(), scene.devices.acquire()
    assert first.environment == second.environment == {"CUDA_VISIBLE_DEVICES": uuid(1)}
    scene.clock.advance(WAIT)
    scene.play(row(0), row(1, load=100, used=36000), row(2))
    assert [scene.devices.acquire().label for _ in range(4)] == ["GPU 0"] * 4
    assert scene.devices.acquire() is None
    assert scene.said == []


def test_memory_fills(scene):
    scene.play(row(0, used=100))
    slots = [scene.devices.acquire(8000.0)]
    for used in (9000, 18000, 27000):
        scene.clock.advance(WAIT)
        scene.play(row(0, load=100, used=used))
        slots.append(scene.devices.acquire(8000.0))
    assert [slot is not None for slot in slots] == [True] * 4
    scene.devices.release(slots.pop())
    scene.clock.advance(WAIT)
    scene.play(row(0, load=100, used=39900))
    assert scene.devices.acquire(8000.0) is None


def test_a_gpu_falls_off(scene):
    scene.play(row(0), row(1))
    lost, kept = scene.devices.acquire(), scene.devices.acquire()
    assert (lost.label, kept.label) == ("GPU 0", "GPU 1")
    scene.clock.advance(WAIT)
    message = "Unable to determine the device handle for GPU0000:3B:00.0: GPU is lost.\n"
    scene.play(row(1, load=80, used=900), text=message, code=15, lists=False, answers_alone=True)
    scene.devices.release(lost)
    assert [scene.devices.acquire().label for _ in range(3)] == ["GPU 1"] * 3
    assert scene.devices.acquire() is None
    assert any("GPU 0 no longer responds" in text for text in scene.said)


def test_no_figure_is_supported(scene):
    unknown = {"load": "[Not Supported]", "used": "[Not Supported]", "total": "[Not Supported]"}
    scene.play(row(0, **unknown), row(1, **unknown))
    assert [scene.devices.acquire().label for _ in range(2)] == ["GPU 0", "GPU 1"]
    assert scene.devices.acquire() is None
