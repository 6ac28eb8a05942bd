import copy

import pytest
import torch

from models.optimizer import make_sgd


@pytest.mark.parametrize(
    ("momentum", "settings"),
    [
        (0.0, {}),
        (0.0, {"weight_decay": 0.01}),
        (0.9, {}),
        (0.9, {"weight_decay": 0.01}),
        (0.9, {"weight_decay": 0.01, "nesterov": True}),
    ],
)
def test_steps_are_those_of_torch(momentum, settings):
    ours = [torch.randn(3, 4, dtype=torch.float64, requires_grad=True), torch.randn(5, dtype=torch.float64)]
    ours[1].requires_grad_()
    theirs = copy.deepcopy(ours)
    groups = [{"params": [ours[0]]}, {"params": [ours[1]], "weight_decay": 0.0}]
    optimizer = make_sgd(groups, 0.1, momentum=momentum, **settings)
    reference = torch.optim.SGD(
        [{"params": [theirs[0]]}, {"params": [theirs[1]], "weight_decay": 0.0}], 0.1, momentum=momentum, **settings
    )
    for step in range(5):
        for one, other in zip(ours, theirs, strict=True):
            one.grad = torch.randn_like(one)
            other.grad = one.grad.clone()
        for group, other in zip(optimizer.param_groups, reference.param_groups, strict=True):
            group["lr"].fill_(0.1 / (step + 1))
            other["lr"] = 0.1 / (step + 1)
        optimizer.step()
        reference.step()
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-14, atol=1e-15)


def test_momentum_is_there_before_the_first_step():
    parameter = torch.zeros(2, requires_grad=True)
    optimizer = make_sgd([{"params": [parameter]}], 0.1, momentum=0.9)
    before = optimizer.state[parameter]["momentum_buffer"]
    parameter.grad = torch.ones(2)
    optimizer.step()
    assert optimizer.state[parameter]["momentum_buffer"] is before
    assert before.tolist() == [1.0, 1.0]
