import pytest
import torch

from tests.golden import cases
from tests.models.rig import FixedNetwork, assert_gradient, assert_matches, leaf, make_offline, observe

CASES = cases("losses/replay.npz", "ft_")


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("name", ["ft_exemplars", "ft_first_task"])
def test_loss_and_gradients_are_the_published_ones(name):
    case = CASES[name]
    heads = [leaf(case[key]) for key in sorted(case) if key.startswith("in_head_logits")]
    method = make_offline("ft", len(heads) - 1, 3, FixedNetwork(torch.cat(heads, dim=1)), None)
    assert_matches(observe(method, case["in_labels"])["loss"], case["out_loss"])
    for index, head in enumerate(heads):
        assert_gradient(head, case[f"grad_head_logits.{index}"])
