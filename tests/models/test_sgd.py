import pytest

from tests.golden import cases
from tests.models.rig import assert_gradient, assert_matches, leaf, make, rows

CASE = cases("losses/replay.npz")["sgd"]


@pytest.mark.usefixtures("device")
def test_loss_and_gradient_are_the_published_ones():
    method, logits = make("sgd"), leaf(CASE["in_logits"])
    losses = method.observe(rows(logits, CASE["in_labels"]))
    assert_matches(losses["loss"], CASE["out_loss"])
    assert_gradient(logits, CASE["grad_logits"])
