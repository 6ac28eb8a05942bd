import pytest
import torch

from utils.errors import Diverged
from utils.run.measurements import LossMeter, Stopwatch, weights_digest


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
