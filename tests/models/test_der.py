import pytest

from tests.golden import cases
from tests.models.rig import assert_gradient, assert_matches, leaf, make, rows

CASES = cases("losses/der.npz", "der_")


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("forward", ["joint", "separate"])
@pytest.mark.parametrize("name", CASES)
def test_loss_gradients_and_stored_logits_are_the_published_ones(name, forward):
    case = CASES[name]
    current, replayed = leaf(case["in_logits"]), leaf(case["in_buffer_logits"])
    draw = rows(replayed, logits=case["in_buffer_stored_logits"])
    method = make("der", [draw], forward=forward, alpha=case["params"]["alpha"])
    losses = method.observe(rows(current, case["in_labels"]))
    assert_matches(losses["loss"], case["out_loss"])
    assert_gradient(current, case["grad_logits"])
    assert_gradient(replayed, case["grad_buffer_logits"])
    assert_matches(method.memory.inserted[0]["logits"], case["out_stored_logits"])
    assert not method.memory.inserted[0]["logits"].requires_grad
