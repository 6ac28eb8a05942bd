import pytest

from tests.utils.records.rig import progress
from utils.launch.packing import AT_ONCE, EVIDENCE, Packing


def train(packing, num_runs, speed, kind="er_ace-BN", gpu="GPU-a", seconds=EVIDENCE, start=0.0):
    """Runs that share a GPU for so long, each with so many steps per second."""
    packing.changed(gpu)
    for moment in (0.0, seconds, seconds + 1.0):  # what was told last may be of another number of runs
        for number in range(num_runs):
            told = progress(pid=number, updated=100.0 + moment, step=int(moment * speed), total_steps=1000)
            packing.listen(gpu, num_runs, (f"{kind}-s{number}", kind), told, start)


def test_a_few_runs_start_at_once_and_no_more_before_they_train():
    packing = Packing(8)
    assert packing.most == AT_ONCE
    train(packing, AT_ONCE, 10, seconds=EVIDENCE / 10)
    assert packing.most == AT_ONCE
    assert Packing(1).most == 1


def test_one_more_is_tried_as_long_as_more_is_done_per_hour():
    packing = Packing(8)
    for number, speed in ((2, 10.0), (3, 9.0), (4, 8.0)):
        assert packing.most == number
        train(packing, number, speed)
        assert packing.most == number + 1
    train(packing, 5, 6.45)  # 32.25 steps per second in all after 32
    assert packing.most == 4


def test_the_limit_is_never_exceeded():
    packing = Packing(3)
    train(packing, 2, 10)
    train(packing, 3, 10)
    assert packing.most == 3


def test_a_long_start_makes_more_runs_worthwhile():
    """Their steps share the GPU, their starts do not."""
    with_start, without = Packing(8), Packing(8)
    for number, speed in ((2, 9.0), (3, 6.0)):
        train(without, number, speed)
        train(with_start, number, speed, start=200.0)
    assert (without.most, with_start.most) == (2, 4)


def test_runs_are_compared_with_runs_of_their_kind():
    packing = Packing(8)
    train(packing, 2, 10.0, "er_ace-BN")
    train(packing, 3, 1.0, "lucir-BN")
    assert packing.most == 3  # nothing says whether that was worthwhile
    train(packing, 2, 1.5, "lucir-BN")
    assert packing.most == 2


@pytest.mark.parametrize("what", ["changed", "restarted"])
def test_what_lies_between_two_numbers_of_runs_tells_of_neither(what):
    packing = Packing(8)
    for pid, moment in ((1, 0.0), (1 if what == "changed" else 2, 100.0)):
        told = progress(pid=pid, updated=moment, step=int(10 * moment), total_steps=1000)
        packing.listen("GPU-a", 2, ("er_ace-BN-s0", "er_ace-BN"), told, 0.0)
        if what == "changed":
            packing.changed("GPU-a")
    assert packing.most == AT_ONCE


def test_what_was_told_before_another_run_began_may_be_of_both():
    packing = Packing(8)
    packing.changed("GPU-a")
    for moment in (0.0, EVIDENCE):
        told = progress(updated=moment, step=int(10 * moment), total_steps=1000)
        packing.listen("GPU-a", 2, ("er_ace-BN-s0", "er_ace-BN"), told, 0.0)
    packing.changed("GPU-a")
    for moment in (EVIDENCE, EVIDENCE + 1):
        told = progress(updated=moment, step=int(10 * moment), total_steps=1000)
        packing.listen("GPU-a", 3, ("er_ace-BN-s0", "er_ace-BN"), told, 0.0)
    assert packing.most == AT_ONCE


def test_all_gpus_of_a_model_tell():
    packing = Packing(8)
    train(packing, 2, 10.0, gpu="GPU-a", seconds=EVIDENCE / 3)
    train(packing, 2, 10.0, gpu="GPU-b", seconds=EVIDENCE / 3)
    assert packing.most == 3
