"""A state names training images, and gives the memory back."""

import io

import pytest
import torch

from tests.utils.data.exemplar_rig import (
    assert_same,
    contents,
    memory_of,
    other_features,
    pool_of,
    pool_of_tasks,
    update_after_tasks,
)
from utils.data.exemplars import SELECTIONS
from utils.errors import UserError


@pytest.mark.parametrize("reherd", [True, False])
@pytest.mark.parametrize("selection", SELECTIONS)
def test_a_restored_memory_goes_on_exactly(selection, reherd):
    memory, restored, again = (memory_of(20, selection, reherd=reherd) for _ in range(3))
    update_after_tasks(memory, 2)
    file = io.BytesIO()
    torch.save(memory.state_dict(), file)
    file.seek(0)
    restored.load_state_dict(torch.load(file, weights_only=True), pool_of_tasks(2))
    assert_same(memory, restored)
    for each in (memory, restored):
        each.update(other_features, pool_of((4, 5), task=2, seed=2), 6)
    assert_same(memory, restored)
    again.load_state_dict(restored.state_dict(), pool_of_tasks(3))
    assert_same(memory, again)


def test_a_state_holds_no_image():
    memory = memory_of(60)
    update_after_tasks(memory, 2)
    assert sum(tensor.nbytes for tensor in memory.state_dict().values()) == 60 * 16


def test_a_state_of_an_earlier_version_is_refused():
    memory = memory_of(20)
    with pytest.raises(UserError, match=r"earlier version.*remove"):
        memory.load_state_dict({"raw": None, "labels": None, "tasks": None}, pool_of_tasks(1))


def test_a_state_is_copied_when_it_is_taken_over():
    memory, restored = memory_of(20), memory_of(20)
    update_after_tasks(memory, 1)
    state = memory.state_dict()
    restored.load_state_dict(state, pool_of_tasks(1))
    before = [each.clone() for each in contents(restored)]
    for tensor in state.values():
        tensor.zero_()
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(contents(restored), before, strict=True))


def test_an_empty_memory_is_restored():
    restored = memory_of(20)
    restored.load_state_dict(memory_of(20).state_dict(), pool_of_tasks(1))
    assert len(restored) == 0
    update_after_tasks(restored, 1)
    assert len(restored) == 20
