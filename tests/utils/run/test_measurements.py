import pytest
import torch

from utils.errors import Diverged
from utils.passes import Passes
from utils.run.evaluate import Counts
from utils.run.measurements import LossMeter, Measurements, Stopwatch, weights_digest


def test_each_term_is_averaged_over_the_steps_that_had_it():
    meter = LossMeter()
    meter.add({"loss": torch.tensor(1.0)})
    meter.add({"loss": torch.tensor(3.0), "norm_loss": torch.tensor(5.0)})
    restored = LossMeter()
    restored.load_state_dict(meter.state_dict())
    assert restored.read() == meter.read() == {"loss": 2.0, "norm_loss": 5.0}
    assert meter.num_steps == 0


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_single_undefined_loss_is_noticed_later(value):
    meter = LossMeter()
    for each in (1.0, value, 2.0):
        meter.add({"loss": torch.tensor(each)})
    assert not meter.is_finite()


def test_digest_is_of_every_bit_and_refuses_what_is_not_finite():
    network = torch.nn.BatchNorm2d(2)
    first = weights_digest(network)
    assert weights_digest(network) == first
    network.running_mean[0] = 1e-7
    assert weights_digest(network) != first
    network.running_mean[0] = float("nan")
    with pytest.raises(Diverged):
        weights_digest(network)


def test_every_moment_counts_once_for_the_innermost_kind():
    moments = iter([0.0, 1.0, 3.0, 7.0, 8.0, 9.0])
    seconds = {"evaluation": 10.0}
    watch = Stopwatch(seconds, lambda: next(moments))
    with watch.during("training"):
        with watch.during("evaluation"):
            pass
        with pytest.raises(Diverged), watch.during("checkpoint"):
            raise Diverged("")
    assert seconds == {"training": 1.0 + 4.0 + 1.0, "evaluation": 10.0 + 2.0, "checkpoint": 1.0}


def test_points_stand_at_the_images_that_had_been_trained_on():
    measured = Measurements.empty(2, "sharp")
    measured.add_cost(8, Passes(24, 16))
    measured.add_cost(4, Passes(12, 8))
    measured.add_point(2, 0, [Counts(3, 5, 6), Counts(0, 0, 0)])
    assert measured.cost == {"images": 12, "forward_rows": 36, "backward_rows": 24}
    expected = {"step": 2, "task": 0, "images": 12, "class_il": [3, None], "task_il": [5, None], "total": [6, None]}
    assert measured.points == {name: [value] for name, value in expected.items()}


def test_a_run_that_lacks_the_beginning_of_its_curve_has_none():
    """As one that goes on from a checkpoint of an earlier version."""
    measured = Measurements([[None]], [[None]], [[None]])
    measured.add_cost(8, Passes(8, 8))
    measured.add_point(2, 0, [Counts(3, 5, 6)])
    assert (measured.cost, measured.points) == (None, {})
