import pytest

from tests.golden import cases
from tests.models.rig import assert_gradient, assert_matches, leaf, make, rows

CASES = cases("losses/der.npz", "derpp_")


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("forward", ["joint", "separate"])
@pytest.mark.parametrize("name", CASES)
def test_loss_gradients_and_stored_logits_are_the_published_ones(name, forward):
    case = CASES[name]
    current, first, second = (leaf(case[f"in_{part}logits"]) for part in ("", "buffer1_", "buffer2_"))
    draws = [
        rows(first, logits=case["in_buffer1_stored_logits"]),
        rows(second, case["in_buffer2_labels"], logits=case["in_buffer1_stored_logits"]),
    ]
    weights = {name: case["params"][name] for name in ("alpha", "beta")}
    method = make("derpp", [] if "empty" in name else draws, forward=forward, **weights)
    losses = method.observe(rows(current, case["in_labels"]))
    assert_matches(losses["loss"], case["out_loss"])
    assert_gradient(current, case["grad_logits"])
    assert_gradient(first, case["grad_buffer1_logits"])
    assert_gradient(second, case["grad_buffer2_logits"])
    assert_matches(method.memory.inserted[0]["logits"], case["out_stored_logits"])
