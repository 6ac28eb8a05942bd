import warnings

import pytest
import torch

from backbone.norm import BatchContext, batch_context, begin_task
from backbone.norm.tbbn import num_balanced_groups
from tests.backbone.norm.rig import context, make, maps, state_of, train_step

TASKS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 15, 19)
GROUPS = {
    (48, 16): (2, 4, 8, 8, 8, 16, 16, 16, 16, 16, 16, 16),
    (10, 10): (1, 2, 2, 2, 5, 5, 5, 5, 5, 10, 10, 10),
    (10, 20): (1, 1, 1, 2, 2, 2, 2, 2, 2, 5, 5, 5),
    (32, 32): (1, 2, 2, 4, 4, 4, 4, 8, 8, 8, 8, 16),
    (30, 10): (2, 5, 5, 10, 10, 10, 10, 10, 10, 10, 10, 10),
    (36, 12): (3, 6, 6, 12, 12, 12, 12, 12, 12, 12, 12, 12),
}


@pytest.mark.parametrize("sizes", GROUPS)
def test_number_of_groups(sizes):
    assert tuple(num_balanced_groups(*sizes, task) for task in TASKS) == GROUPS[sizes]
    assert num_balanced_groups(*sizes, 0) == 1


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("sizes", [(0, 16), (16, 0)])
def test_nothing_to_balance(sizes):
    assert num_balanced_groups(*sizes, 3) == 1  # and no warning, which would be an error here


def test_numbers_without_a_common_divisor_are_told_once():
    num_balanced_groups.cache_clear()
    with pytest.warns(UserWarning, match="TBBN: 10 current and 7 memory samples have no common divisor"):
        assert num_balanced_groups(10, 7, 5) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert num_balanced_groups(10, 7, 5) == 1


def by_definition(layer, x, num_current, num_groups):
    """The layer with every memory sample repeated for every group; gives output and new running statistics."""
    outputs, means, variances = torch.zeros_like(x), [], []
    for group in range(num_groups):
        rows = torch.cat([torch.arange(group, num_current, num_groups), torch.arange(num_current, len(x))])
        part = x[rows]
        mean, variance = part.mean((0, 2, 3), keepdim=True), part.var((0, 2, 3), correction=0, keepdim=True)
        scale = layer.weight.view(1, -1, 1, 1) / (variance + layer.eps).sqrt()
        y = (part - mean) * scale + layer.bias.view(1, -1, 1, 1)
        share = torch.ones(len(rows), dtype=x.dtype)
        share[rows >= num_current] = 1 / num_groups
        outputs = outputs.index_add(0, rows, y * share.view(-1, 1, 1, 1))
        means.append(mean.flatten())
        variances.append(part.var((0, 2, 3)))
    running = [0.9 * layer.running_mean, 0.9 * layer.running_var]
    return outputs, running[0] + 0.1 * sum(means) / num_groups, running[1] + 0.1 * sum(variances) / num_groups


@pytest.mark.parametrize(("num_current", "num_memory", "task"), [(12, 4, 1), (6, 6, 3), (10, 20, 4), (9, 3, 2)])
@pytest.mark.parametrize("offset", [0, 50])
def test_closed_form_equals_the_definition(num_current, num_memory, task, offset):
    layer = make("TBBN", channels=3, dtype=torch.float64)
    num_groups = num_balanced_groups(num_current, num_memory, task)
    assert num_groups > 1
    inputs = [maps(num_current + num_memory, 3, dtype=torch.float64) + offset for _ in range(2)]
    inputs = [x.requires_grad_() for x in inputs]
    weights = maps(num_current + num_memory, 3, dtype=torch.float64, seed=8)
    expected, mean, variance = by_definition(layer, inputs[0], num_current, num_groups)
    parameters = list(layer.parameters())
    expected_gradients = torch.autograd.grad((expected * weights).sum(), [inputs[0], *parameters])
    begin_task(layer, task)
    with batch_context(layer, BatchContext(task, None, num_current)):
        y = layer(inputs[1])
    gradients = torch.autograd.grad((y * weights).sum(), [inputs[1], *parameters])
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(gradients, expected_gradients)
    torch.testing.assert_close(layer.running_mean, mean)
    torch.testing.assert_close(layer.running_var, variance)


@pytest.mark.parametrize("described", [None, context(0, 8, 4), context(2, 12, 0), context(2, 0, 12), context(1, 4, 8)])
def test_equals_bn_where_there_is_nothing_to_balance(described):
    balanced, plain = make("TBBN"), make("BN")
    inputs = [maps().requires_grad_() for _ in range(2)]
    found = train_step(balanced, inputs[0], described)
    assert torch.equal(found[0], train_step(plain, inputs[1])[0])
    torch.testing.assert_close(found[2], {name: parameter.grad for name, parameter in plain.named_parameters()})
    assert torch.equal(inputs[0].grad, inputs[1].grad)
    assert all(torch.equal(value, balanced.state_dict()[name]) for name, value in plain.state_dict().items())


def outputs_after(order):
    layer = make("TBBN", dtype=torch.float64)
    return train_step(layer, maps(dtype=torch.float64)[order].requires_grad_(), context())[0], state_of(layer)


def test_order_of_memory_samples_does_not_matter():
    order = torch.cat([torch.arange(8), torch.tensor([10, 8, 11, 9])])
    y, state = outputs_after(torch.arange(12))
    permuted, other_state = outputs_after(order)
    torch.testing.assert_close(permuted, y[order])
    torch.testing.assert_close(state, other_state)


def test_current_samples_are_dealt_out_by_stride():
    y, _ = outputs_after(torch.arange(12))
    assert num_balanced_groups(8, 4, 2) == 4
    within_groups = torch.tensor([4, 1, 6, 3, 0, 5, 2, 7, 8, 9, 10, 11])  # sample i changes places with i + 4
    torch.testing.assert_close(outputs_after(within_groups)[0], y[within_groups])
    across_groups = torch.tensor([1, 0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11])
    assert (outputs_after(across_groups)[0] - y[across_groups]).abs().max() > 0.01


def test_counts_its_forwards():
    layer = make("TBBN")
    train_step(layer, maps().requires_grad_())
    train_step(layer, maps().requires_grad_(), context())
    assert layer.num_batches_tracked == 2
