"""Runs on GPUs that a fake `nvidia-smi` shows, which tell their memory and their speed, or lose their GPU."""

import pytest

from tests.utils.launch.gpu_rig import FakeNvidiaSmi, row
from tests.utils.launch.rig import SilentView, job, scheduler
from utils.launch import gpu_watcher
from utils.launch.devices import Devices
from utils.launch.gpu_watcher import GpuWatcher


class Order(SilentView):
    """Notes what starts and ends, in order."""

    def __init__(self):
        super().__init__()
        self.order = []

    def started(self, child):
        self.order.append(f"{child.job.name} starts")

    def ended(self, job, outcome, reason, child, progress):
        self.order.append(f"{job.name} ends")


@pytest.fixture
def order(tmp_path, monkeypatch):
    """What starts and ends on one GPU of 40000 MiB; estimates by the name of the run."""
    (tmp_path / "dev").mkdir()
    monkeypatch.setattr(gpu_watcher, "DEVICE_FOLDER", tmp_path / "dev")
    smi = FakeNvidiaSmi(tmp_path, monkeypatch)
    smi.play(row(0))
    watcher = GpuWatcher(lambda text: None, {})

    def run(jobs, estimates, view=None, **limits):
        run, _, _ = scheduler(tmp_path, jobs, waitsecs=0.2, **limits)
        run._engine._devices = Devices(look=watcher.look, waitsecs=0.2, say=lambda text: None)
        run._engine._estimate = lambda each: estimates.get(each.name)
        run._view = view or Order()
        run.run()
        return run._view.order

    run.smi = smi
    return run


def test_a_run_that_tells_of_much_memory_gets_no_neighbour(tmp_path, order):
    jobs = [job(tmp_path, name, memory="0,36000", seconds=2) for name in ("one", "two")]
    assert order(jobs, {}, coldsecs=1.0) == ["one starts", "one ends", "two starts", "two ends"]


def test_a_run_that_tells_of_little_memory_makes_room(tmp_path, order):
    jobs = [job(tmp_path, "small", memory="1,1000", seconds=4), job(tmp_path, "large")]
    assert order(jobs, {"large": 28000.0}) == ["small starts", "large starts", "large ends", "small ends"]


def test_a_run_in_its_first_task_makes_no_room_yet(tmp_path, order):
    jobs = [job(tmp_path, "small", memory="0,1000", seconds=2), job(tmp_path, "large")]
    assert order(jobs, {"large": 28000.0}) == ["small starts", "small ends", "large starts", "large ends"]


def test_a_run_makes_no_room_below_what_equal_ones_reached(tmp_path, order):
    jobs = [job(tmp_path, "small", memory="1,1000", seconds=2), job(tmp_path, "large")]
    estimates = {"small": 9000.0, "large": 28000.0}
    assert order(jobs, estimates) == ["small starts", "small ends", "large starts", "large ends"]


def test_a_run_whose_gpu_vanishes_goes_on_on_another_one(tmp_path, order):
    class Vanishing(Order):
        def started(self, child):
            self.order.append(child.slot.label)
            order.smi.play(row(1))

    order.smi.play(row(0), row(1))
    each = job(tmp_path, "one", codes="1,0", seconds=0.5, message="RuntimeError: CUDA error: device is lost")
    assert order([each], {}, Vanishing()) == ["GPU 0", "GPU 1", "one ends"]
    assert each.record.complete


@pytest.mark.slow
@pytest.mark.parametrize(("paced", "most"), [("shared", 3), ("alone", 5)])
def test_as_many_runs_share_a_gpu_as_are_worthwhile(tmp_path, order, monkeypatch, paced, most):
    """One more than is worthwhile has been tried."""

    class Counting(Order):
        most, now = 0, 0

        def started(self, child):
            self.now += 1
            self.most = max(self.most, self.now)

        def ended(self, job, outcome, reason, child, progress):
            self.now -= 1
            self.order.append(self.now + 1)

    monkeypatch.setattr("utils.launch.packing.EVIDENCE", 0.5)
    monkeypatch.setattr("utils.launch.devices.MOST_RUNS_PER_GPU", 5)
    monkeypatch.setattr("utils.launch.devices.available_cores", lambda: 16)
    jobs = [job(tmp_path, f"one-s{seed}", paced=paced) for seed in range(16)]
    view = Counting()
    order(jobs, dict.fromkeys((each.name for each in jobs), 10.0), view)
    assert view.most == most
    later = view.order[8:-2]
    assert max(later) == (2 if paced == "shared" else most)
