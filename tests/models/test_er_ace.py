import numpy as np
import pytest
import torch

from models.er_ace import kept_classes
from tests.golden import cases
from tests.models.rig import assert_gradient, assert_matches, leaf, make, rows
from utils.config.registry import METHODS

CASES = cases("losses/er_ace.npz")


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("forward", ["joint", "separate"])
@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradients_are_the_published_ones(name, forward):
    case = CASES[name]
    task = case["params"]["task"]
    current, replayed = leaf(case["in_logits"]), leaf(case["in_buffer_logits"])
    method = make("er_ace", [rows(replayed, case["in_buffer_labels"])], forward=forward)
    method.begin_task(task)
    method.seen[torch.tensor(case["in_seen_before"]).long()] = True
    losses = method.observe(rows(current, case["in_labels"], task))
    assert_matches(losses["loss"], case["out_loss"])
    assert_gradient(current, case["grad_logits"])
    assert_gradient(replayed, case["grad_buffer_logits"])
    assert method.seen.nonzero().flatten().tolist() == case["out_seen_after"].tolist()


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("name", [name for name in CASES if CASES[name]["params"]["task"] > 0])
def test_kept_classes_are_the_published_ones(name):
    case = CASES[name]
    present, seen = torch.zeros(10, dtype=torch.bool), torch.zeros(10, dtype=torch.bool)
    present[torch.tensor(case["in_labels"])] = True
    seen[torch.tensor(case["out_seen_after"])] = True
    np.testing.assert_array_equal(kept_classes(present, seen).cpu().numpy(), case["out_kept_classes"])


def test_first_task_leaves_memory_alone():
    draw = rows(leaf(np.zeros((5, 10))))
    method = make("er_ace", [draw])
    method.observe(rows(leaf(np.zeros((6, 10))), np.zeros(6, dtype=np.int64)))
    assert method.memory.draws == [draw]


def test_regularizing_from_the_first_or_the_second_task_is_one_computation():
    first, second, third = (
        METHODS.get("er_ace").identity_values({"lambd": 1.0, "ada_t0": task}, object) for task in range(3)
    )
    assert first == second != third


def test_seen_classes_survive_saving():
    method = make("er_ace", [])
    method.seen[3] = True
    state = {"task": 1, "num_classes": 0, "network": method.network.state_dict(), "memory": None}
    state["seen"] = method.seen.clone()
    fresh = make("er_ace", [])
    fresh.memory = None
    fresh.load_state_dict(state)
    assert fresh.seen.tolist() == method.seen.tolist()
    assert fresh.task == 1
