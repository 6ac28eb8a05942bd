import numpy as np
import pytest
import torch

from tests.golden import cases
from tests.models.rig import FixedNetwork, assert_gradient, assert_matches, leaf, make_offline, observe
from utils.config.configuration import configure
from utils.errors import UserError

CASES = cases("losses/ssil.npz")


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("name", CASES)
def test_losses_and_gradients_are_the_published_ones(name):
    case = CASES[name]
    current, memory = leaf(case["in_current_logits"]), leaf(case["in_memory_logits"])
    teacher = FixedNetwork(leaf(case["in_old_logits"]))
    distilled = "all" if name.startswith("original") else "last"
    network = FixedNetwork(torch.cat([current, memory]))
    method = make_offline("ssil", case["params"]["task"], 3, network, teacher, ssil_distill=distilled)
    labels = [*case["in_current_labels"], *case["in_memory_labels"]]
    losses = observe(method, np.array(labels), num_current=len(current))
    for ours, recorded in {"loss": "out_loss", "ce": "out_term_ce", "distillation": "out_term_kd"}.items():
        assert_matches(losses[ours], case[recorded])
    assert_gradient(current, case["grad_current_logits"])
    assert_gradient(memory, case["grad_memory_logits"])


def test_first_task_is_plain_cross_entropy():
    logits = leaf(CASES["original_t1"]["in_current_logits"][:, :3])
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    losses = observe(make_offline("ssil", 0, 3, FixedNetwork(logits), None), labels.numpy())
    assert_matches(losses["loss"], torch.nn.functional.cross_entropy(logits, labels).detach().numpy())


@pytest.mark.parametrize("words", ["--batching union", "--current_pool union"])
def test_parts_that_cannot_be_told_apart_are_refused(words):
    with pytest.raises(UserError, match="--batching ratio"):
        configure(["--model", "ssil", "--dataset", "seq-digits", *words.split()])
