import pytest

from tests.golden import cases
from tests.models.rig import assert_gradient, assert_matches, leaf, make, rows

CASES = cases("losses/replay.npz", "er_")


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("forward", ["joint", "separate"])
@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradients_are_the_published_ones(name, forward):
    case = CASES[name]
    current, replayed = leaf(case["in_logits"]), leaf(case["in_buffer_logits"])
    draws = [] if "empty" in name else [rows(replayed, case["in_buffer_labels"])]
    method = make("er", draws, forward=forward)
    losses = method.observe(rows(current, case["in_labels"]))
    assert_matches(losses["loss"], case["out_loss"])
    assert_gradient(current, case["grad_logits"])
    assert_gradient(replayed, case["grad_buffer_logits"])
    assert len(method.memory.inserted) == 1
