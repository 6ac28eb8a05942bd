import os
from dataclasses import replace

import pytest

from tests.utils.launch.gpu_rig import Clock
from utils.launch.devices import CONTEXT_MEMORY, LOAD_DELAY, MARGIN, Devices
from utils.launch.gpus import Gpu
from utils.machine import MPS_PERCENT

WAIT = 5.0


@pytest.fixture(autouse=True)
def many_cores_and_runs(monkeypatch):
    """Neither the cores nor what is gained decides."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(64), raising=False)
    monkeypatch.setattr("utils.launch.packing.AT_ONCE", 4)


class Machine:
    """GPUs whose figures a test changes, and devices that look at them."""

    def __init__(self, *gpus, **options):
        self.gpus = {gpu.id: gpu for gpu in gpus}
        self.num_looks = 0
        self.clock = Clock()
        self.said = []
        self.devices = Devices(look=self._look, clock=self.clock, say=self.said.append, waitsecs=WAIT, **options)

    def _look(self):
        self.num_looks += 1
        return list(self.gpus.values())

    def change(self, id, **figures):
        """The figures that the next look finds; that look is due."""
        self.gpus[id] = replace(self.gpus[id], **figures)
        self.clock.advance(WAIT)

    def acquire_all(self, memory_mb=None):
        """Slots until there is none."""
        slots = []
        while (slot := self.devices.acquire(memory_mb)) is not None:
            slots.append(slot)
            assert len(slots) < 100
        return slots


def gpu(id="GPU-a", load=0.0, memory_used=0.0, memory_total=40000.0):
    return Gpu(id, None, "NVIDIA A100", id, load, memory_used, memory_total)


MIG = Gpu("MIG-a", 1, "A MIG 1g", "MIG-a", part=0)


def reservation(peak):
    return MARGIN * (peak + CONTEXT_MEMORY)


def where(slots):
    return [slot.device for slot in slots]


# -- GPUs ------------------------------------------------------------------------------------------------------------


def test_a_place_on_a_gpu_shows_the_run_this_gpu_alone():
    slot = Machine(Gpu("GPU-a", 3), threads=2).devices.acquire()
    assert slot.label == "GPU 3"
    assert slot.environment == {"CUDA_VISIBLE_DEVICES": "GPU-a"}
    assert slot.arguments == ("--device", "cuda")


def test_runs_are_spread_before_they_share():
    slots = Machine(gpu("GPU-a"), gpu("GPU-b"), gpu("GPU-c", load=0.9)).acquire_all()
    assert where(slots) == ["GPU-a", "GPU-b"] * 4


def test_the_emptier_of_two_gpus_is_first():
    machine = Machine(gpu("GPU-a", load=0.2), gpu("GPU-b", load=0.1))
    assert machine.devices.acquire().device == "GPU-b"
    machine = Machine(gpu("GPU-a", memory_used=500.0), gpu("GPU-b"))
    assert machine.devices.acquire().device == "GPU-b"


@pytest.mark.parametrize(
    ("figures", "idle"),
    [
        ({}, True),
        ({"load": 0.29, "memory_used": 11999.0}, True),
        ({"load": 0.3}, False),
        ({"memory_used": 12000.0}, False),
        ({"load": None, "memory_used": 12000.0}, False),
        ({"load": None, "memory_used": 11000.0}, True),
        ({"load": 0.9, "memory_used": None}, False),
        ({"load": None, "memory_used": None}, True),
        ({"load": 0.9, "memory_total": None}, False),
        ({"load": None, "memory_used": None, "memory_total": None}, True),
    ],
)
def test_idle_is_below_the_threshold_by_load_and_memory_as_far_as_known(figures, idle):
    assert (Machine(gpu(**figures)).devices.acquire() is not None) == idle


def test_the_threshold_is_the_users():
    machine = Machine(gpu(load=0.5, memory_used=20000.0), usage_threshold=0.51)
    assert machine.devices.acquire() is not None
    assert Machine(gpu(load=0.5), usage_threshold=0.5).devices.acquire() is None


def test_our_own_load_and_memory_do_not_count_as_foreign():
    machine = Machine(gpu())
    machine.devices.acquire(12000.0)
    machine.change("GPU-a", load=1.0, memory_used=13500.0)
    assert machine.devices.acquire(12000.0) is not None


def test_a_foreign_job_beside_ours_comes_and_goes():
    machine = Machine(gpu())
    machine.devices.acquire(3000.0)
    machine.change("GPU-a", memory_used=3500.0 + 14000.0)
    assert machine.devices.acquire(3000.0) is None
    machine.change("GPU-a", memory_used=3500.0)
    assert machine.devices.acquire(3000.0) is not None


def test_a_foreign_job_known_before_is_not_taken_for_ours():
    machine = Machine(gpu(memory_used=10000.0))
    first = machine.devices.acquire()  # reserves a quarter of 30000
    machine.change("GPU-a", memory_used=11000.0)  # of which it has 1000 so far
    assert reservation(20000.0) > 30000.0 - 7500.0
    assert machine.devices.acquire(20000.0) is None
    machine.devices.report_peak(first, 1000.0)
    assert machine.devices.acquire(20000.0) is not None


def test_a_run_that_takes_more_than_its_estimate_is_no_foreign_job_once_it_says_so():
    machine = Machine(gpu())
    slot = machine.devices.acquire(1000.0)
    machine.change("GPU-a", memory_used=20000.0)
    assert machine.devices.acquire(1000.0) is None
    machine.devices.report_peak(slot, 19400.0)
    assert machine.devices.acquire(1000.0) is not None


def test_memory_that_is_full_takes_no_run_although_it_is_below_the_threshold():
    machine = Machine(gpu(memory_used=10000.0), usage_threshold=0.5)
    machine.devices.acquire(15000.0)
    free = 40000.0 - 10000.0 - reservation(15000.0)
    machine.change("GPU-a", memory_used=25500.0)
    assert machine.devices.acquire(free / MARGIN - CONTEXT_MEMORY + 10.0) is None
    assert machine.devices.acquire(free / MARGIN - CONTEXT_MEMORY - 10.0) is not None


@pytest.mark.parametrize(("peak", "number"), [(39000.0, 1), (17000.0, 2), (18000.0, 1), (11500.0, 3), (100.0, 4)])
def test_as_many_share_a_gpu_as_their_peaks_allow(peak, number):
    assert len(Machine(gpu()).acquire_all(peak)) == number


def test_runs_of_unknown_need_take_equal_shares_until_they_report():
    machine = Machine(gpu(memory_used=500.0))
    slots = machine.acquire_all()
    assert len(slots) == 4
    machine.devices.release(slots.pop())
    machine.devices.report_peak(slots[0], 20000.0)
    assert machine.devices.acquire() is None
    machine.devices.report_peak(slots[0], 1000.0)
    assert machine.devices.acquire(15000.0) is not None


def test_without_known_memory_one_run_at_a_time():
    machine = Machine(gpu(memory_total=None))
    assert len(machine.acquire_all(1000.0)) == 1


@pytest.mark.parametrize("number", ["6", 6, 1])
def test_a_number_of_runs_is_taken_at_its_word(number):
    assert len(Machine(gpu(), runs_per_gpu=number).acquire_all(30000.0)) == int(number)
    assert len(Machine(gpu(memory_total=None), runs_per_gpu=number).acquire_all()) == int(number)
    assert Machine(gpu(), gpu("GPU-b"), runs_per_gpu=number).devices.num_slots == 2 * int(number)


def test_a_full_gpu_takes_no_more_while_another_one_is_busy():
    machine = Machine(gpu("GPU-a"), gpu("GPU-b", load=0.9), runs_per_gpu=2)
    assert where(machine.acquire_all()) == ["GPU-a", "GPU-a"]


def test_a_run_too_large_for_every_gpu_tries_alone_where_there_is_most():
    machine = Machine(gpu("GPU-a", memory_total=10000.0), gpu("GPU-b", memory_used=300.0))
    small = machine.devices.acquire(1000.0)
    assert small.device == "GPU-b"
    assert machine.devices.acquire(90000.0) is None
    machine.devices.release(small)
    assert machine.devices.acquire(90000.0).device == "GPU-b"
    assert machine.devices.acquire(90000.0) is None


def test_out_of_memory_leaves_fewer_neighbours_on_that_gpu():
    machine = Machine(gpu("GPU-a"), gpu("GPU-b"))
    slots = machine.acquire_all()
    failed = next(slot for slot in slots if slot.device == "GPU-a")
    machine.devices.release(failed)
    machine.devices.fewer_neighbours(failed)
    assert machine.devices.acquire() is None
    for slot in slots:
        if slot is not failed:
            machine.devices.release(slot)
    again = where(machine.acquire_all())
    assert (again.count("GPU-a"), again.count("GPU-b")) == (3, 4)


@pytest.mark.parametrize("released", [True, False])
def test_the_limit_falls_below_what_was_there_and_never_to_none(released):
    machine = Machine(gpu())
    pair = [machine.devices.acquire(), machine.devices.acquire()]
    if released:
        machine.devices.release(pair[0])
    machine.devices.fewer_neighbours(pair[0])
    assert machine.devices.num_slots == 1
    machine.devices.fewer_neighbours(pair[0])
    assert machine.devices.num_slots == 1


def test_a_gpu_that_falls_off_is_said_and_used_no_more_until_it_is_back():
    machine = Machine(gpu("GPU-a"), gpu("GPU-b"))
    lost = machine.devices.acquire()
    del machine.gpus["GPU-a"]
    machine.clock.advance(WAIT)
    assert where(machine.acquire_all()) == ["GPU-b"] * 4
    machine.devices.release(lost)
    assert machine.devices.acquire() is None
    assert machine.devices.num_slots == 4
    assert len(machine.said) == 1
    assert "GPU-a no longer responds" in machine.said[0]
    machine.gpus["GPU-a"] = gpu("GPU-a")
    machine.clock.advance(WAIT)
    assert machine.devices.acquire().device == "GPU-a"
    assert len(machine.said) == 2


def test_all_gpus_lost_leaves_the_runs_waiting_and_not_on_the_cores():
    machine = Machine(gpu())
    machine.devices.release(machine.devices.acquire())
    machine.gpus.clear()
    assert machine.devices.acquire() is None


def test_what_equal_runs_reached_stays_reserved_when_a_run_has_taken_less_so_far():
    machine = Machine(gpu())
    slot = machine.devices.acquire(20000.0)
    machine.devices.report_peak(slot, 1000.0)
    assert machine.devices.acquire(20000.0) is None
    machine.devices.report_peak(slot, 34000.0)
    assert machine.devices.acquire(3000.0) is None


def test_a_peak_that_may_grow_gives_nothing_up_and_claims_what_it_takes():
    machine = Machine(gpu())
    first, second = machine.devices.acquire(), machine.devices.acquire()  # a quarter of 40000 each
    machine.devices.report_peak(first, 1000.0, may_grow=True)
    needed = (20000.0 + 500.0) / MARGIN - CONTEXT_MEMORY
    assert machine.devices.acquire(needed) is None
    machine.devices.report_peak(first, 1000.0)
    third = machine.devices.acquire(needed)
    machine.devices.release(third)
    machine.devices.report_peak(second, 25000.0, may_grow=True)
    assert machine.devices.acquire(needed) is None


@pytest.mark.parametrize(("gpus", "kinds"), [([], {"cpu"}), ([gpu(), gpu("GPU-b"), Gpu("0")], {"NVIDIA A100", ""})])
def test_the_kinds_of_device_are_those_of_the_records(gpus, kinds):
    assert Machine(*gpus).devices.kinds == kinds


# -- when it looks ---------------------------------------------------------------------------------------------------


def test_a_look_is_good_for_waitsecs_unless_a_run_ends():
    machine = Machine(gpu(load=0.9))
    assert machine.devices.acquire() is None
    machine.gpus["GPU-a"] = gpu()
    machine.clock.advance(WAIT - 0.1)
    assert machine.devices.acquire() is None
    assert machine.num_looks == 1
    machine.clock.advance(0.1)
    slot = machine.devices.acquire()
    assert slot is not None
    assert machine.num_looks == 2
    machine.devices.release(slot)
    assert machine.devices.acquire() is not None
    assert machine.num_looks == 3


@pytest.mark.parametrize(("options", "peak"), [({"runs_per_gpu": 2}, None), ({}, 17000.0)])
def test_nobody_looks_while_our_own_runs_fill_every_gpu(options, peak):
    machine = Machine(gpu(memory_used=500.0), **options)
    machine.devices.acquire(peak)
    machine.devices.acquire(peak)
    machine.clock.advance(10 * WAIT)
    assert machine.devices.acquire(peak) is None
    assert machine.num_looks == 1


def test_it_looks_while_others_are_in_the_way():
    machine = Machine(gpu(memory_used=3000.0))
    assert len(machine.acquire_all(17000.0)) == 1
    machine.change("GPU-a", memory_used=0.0)
    assert len(machine.acquire_all(17000.0)) == 1


def test_the_load_of_a_run_that_is_over_does_not_delay_the_next_one():
    machine = Machine(gpu(), runs_per_gpu=1)
    slot = machine.devices.acquire()
    machine.change("GPU-a", load=1.0)
    machine.devices.release(slot)
    slot = machine.devices.acquire()
    assert slot is not None
    machine.devices.release(slot)
    machine.clock.advance(LOAD_DELAY)
    assert machine.devices.acquire() is None


# -- cores -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "number"), [({}, 8), ({"jobs": 3}, 3), ({"threads": 3}, 2), ({"threads": 9}, 1), ({"jobs": 20}, 20)]
)
def test_without_a_gpu_runs_share_the_cores(monkeypatch, options, number):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(8), raising=False)
    machine = Machine(**options)
    slots = machine.acquire_all()
    assert len(slots) == number == machine.devices.num_slots
    assert machine.num_looks == 1
    assert slots[0].label == "CPU"
    assert slots[0].environment == {}
    assert slots[0].arguments == ("--device", "cpu")
    machine.devices.release(slots[0])
    assert len(machine.acquire_all(1e9)) == 1


def test_out_of_memory_on_the_cores_leaves_fewer_runs():
    machine = Machine(jobs=4)
    machine.devices.fewer_neighbours(machine.acquire_all()[0])
    assert machine.devices.num_slots == 3


def test_a_peak_is_taken_note_of_only_while_its_run_has_the_place():
    machine = Machine(gpu())
    slot = machine.devices.acquire()
    machine.devices.release(slot)
    machine.devices.report_peak(slot, 39000.0)
    assert len(machine.acquire_all()) == 4
    with pytest.raises(KeyError):
        machine.devices.release(slot)


# -- options ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gpus", "options", "number"),
    [
        ([gpu(), gpu("GPU-b")], {}, 3),
        ([gpu(), gpu("GPU-b")], {"threads": 2}, 1),
        ([gpu(), gpu("GPU-b")], {"jobs": 5}, 5),
        ([gpu(), gpu("GPU-b")], {"jobs": 20}, 8),
        ([gpu(), gpu("GPU-b")], {"runs_per_gpu": 3}, 6),
        ([gpu(), gpu("GPU-b")], {"runs_per_gpu": 3, "jobs": 4}, 4),
        ([Gpu("0"), Gpu("1")], {}, 2),
        ([replace(gpu(), is_exclusive=True), gpu("GPU-b")], {"jobs": 20}, 5),
        ([replace(gpu(), is_exclusive=True)], {"runs_per_gpu": 3}, 1),
    ],
)
def test_runs_on_gpus_are_as_many_as_cores_allow_unless_a_number_is_typed(monkeypatch, gpus, options, number):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(3), raising=False)
    machine = Machine(*gpus, **options)
    slots = machine.acquire_all()
    assert len(slots) == number == machine.devices.num_slots
    machine.devices.release(slots[0])
    assert len(machine.acquire_all()) == 1


@pytest.fixture
def mps(monkeypatch, tmp_path):
    """The Multi-Process Service runs."""
    (tmp_path / "control").touch()
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(tmp_path))
    monkeypatch.delenv(MPS_PERCENT, raising=False)
    return tmp_path


@pytest.mark.usefixtures("mps")
@pytest.mark.parametrize(
    ("gpus", "options", "cores", "percent"),
    [
        ([gpu()], {}, 64, 25),
        ([gpu()], {}, 4, 50),
        ([gpu()], {"jobs": 2}, 64, None),
        ([gpu()], {"threads": 2}, 8, 50),
        ([gpu()], {"runs_per_gpu": 1}, 64, None),
        ([gpu()], {"runs_per_gpu": 3}, 64, 67),
        ([gpu()], {"runs_per_gpu": 12}, 1, 17),
        ([gpu()], {"runs_per_gpu": 12, "jobs": 4}, 1, 50),
        ([gpu()], {"num_runs": 1}, 64, None),
        ([gpu()], {"num_runs": 5}, 64, 40),
        ([gpu(), gpu("GPU-b")], {}, 8, 50),
        ([gpu(), gpu("GPU-b")], {"num_runs": 100}, 64, 25),
        ([MIG], {}, 64, None),
        ([Gpu("MIG-GPU-a/1/0")], {}, 64, None),
        ([gpu(), MIG], {}, 64, None),
        ([Gpu("0")], {}, 64, None),
        ([Gpu("0")], {"runs_per_gpu": 4}, 64, 50),
        ([], {}, 64, None),
    ],
)
def test_runs_divide_multiprocessors_under_the_multi_process_service(monkeypatch, gpus, options, cores, percent):
    """By how many runs there may be, not by how many there are: the part decides the order of sums."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(cores), raising=False)
    devices = Machine(*gpus, **options).devices
    assert devices.mps_percent == percent
    assert devices.acquire() is not None
    assert devices.mps_percent == percent


@pytest.mark.parametrize(("gpus", "percent"), [([gpu()], 12.5), ([], None)])
def test_a_part_that_the_environment_names_is_taken(monkeypatch, mps, gpus, percent):
    monkeypatch.setenv(MPS_PERCENT, "12.5")
    assert Machine(*gpus).devices.mps_percent == percent
    (mps / "control").unlink()
    assert Machine(*gpus).devices.mps_percent is None


@pytest.mark.parametrize(
    ("gpus", "options", "shared"),
    [
        ([], {"jobs": 4}, False),
        ([gpu(), gpu("GPU-b")], {"jobs": 2}, False),
        ([gpu(), gpu("GPU-b")], {"runs_per_gpu": 1}, False),
        ([gpu(), gpu("GPU-b")], {"jobs": 3}, True),
    ],
)
def test_whether_runs_share_a_gpu_is_known_beforehand(gpus, options, shared):
    assert Machine(*gpus, **options).devices.shares_gpus == shared


def test_a_number_that_a_gpu_in_exclusive_mode_cannot_take_is_said():
    machine = Machine(replace(gpu(), is_exclusive=True, index=2), runs_per_gpu=3)
    machine.acquire_all()
    assert machine.said == ["GPU 2 takes one run at a time: its compute mode is Exclusive_Process"]


def test_a_number_of_runs_per_gpu_is_said_to_have_no_effect_without_one():
    machine = Machine(runs_per_gpu=2)
    machine.acquire_all()
    assert len(machine.said) == 1
    assert machine.said[0].startswith("--runs_per_gpu has no effect")


@pytest.mark.parametrize(
    ("gpus", "options", "line"),
    [
        ([], {"jobs": 2}, "the CPU: 2 runs at a time with 1 thread each"),
        ([gpu(), gpu("GPU-b")], {}, "2 x NVIDIA A100: 4 runs at a time on each and more if that is faster"),
        (
            [gpu(), gpu("GPU-b")],
            {"jobs": 3},
            "2 x NVIDIA A100: 4 runs at a time on each, 3 in all",
        ),
        ([gpu()], {"jobs": 4}, "1 x NVIDIA A100: 4 runs at a time on each"),
        ([gpu()], {"jobs": 5}, "1 x NVIDIA A100: 4 runs at a time on each and more if that is faster"),
        ([Gpu("0")], {}, "1 x GPU of unknown kind: 1 run at a time on each"),
        (
            [gpu(), Gpu("0")],
            {"runs_per_gpu": 3},
            "1 x NVIDIA A100, 1 x GPU of unknown kind: 3 runs at a time on each",
        ),
        ([replace(gpu(), is_exclusive=True)], {"runs_per_gpu": 20}, "1 x NVIDIA A100: 1 run at a time on each"),
        (
            [MIG, replace(MIG, id="MIG-b"), gpu()],
            {},
            "2 x A MIG 1g: 1 run at a time on each; "
            "1 x NVIDIA A100: 4 runs at a time on each and more if that is faster",
        ),
    ],
)
def test_the_line_about_where_the_runs_go(gpus, options, line):
    assert Machine(*gpus, **options).devices.describe() == line
