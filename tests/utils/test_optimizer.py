import copy
import itertools
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from utils.config.registry import ROOT
from utils.optimizer import make_optimizer, parameters_of

PLAIN = {"optimizer": "sgd", "optim_wd": 0.0, "optim_mom": 0.0, "optim_nesterov": False}
PLAIN |= {"optim_beta1": 0.9, "optim_beta2": 0.999, "optim_eps": 1e-8}
WD = {"weight_decay": 0.01}
CASES = [  # options of a run, PyTorch's optimizer and its settings
    ({}, torch.optim.SGD, {}),
    ({"optim_wd": 0.01}, torch.optim.SGD, WD),
    ({"optim_mom": 0.9}, torch.optim.SGD, {"momentum": 0.9}),
    ({"optim_mom": 0.9, "optim_wd": 0.01}, torch.optim.SGD, {"momentum": 0.9, **WD}),
    (
        {"optim_mom": 0.9, "optim_wd": 0.01, "optim_nesterov": True},
        torch.optim.SGD,
        {"momentum": 0.9, "nesterov": True, **WD},
    ),
    ({"optimizer": "adam"}, torch.optim.Adam, {}),
    ({"optimizer": "adam", "optim_wd": 0.01}, torch.optim.Adam, WD),
    (
        {"optimizer": "adamw", "optim_wd": 0.01, "optim_beta1": 0.5, "optim_beta2": 0.8, "optim_eps": 1e-3},
        torch.optim.AdamW,
        {"betas": (0.5, 0.8), "eps": 1e-3, **WD},
    ),
]


def options(**given):
    return SimpleNamespace(**(PLAIN | given))


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(("given", "kind", "settings"), CASES)
def test_steps_are_those_of_torch(given, kind, settings, fused, monkeypatch):
    monkeypatch.setattr("utils.optimizer.is_fused", lambda parameter: fused)
    ours = [torch.randn(3, 4, dtype=torch.float64, requires_grad=True), torch.randn(5, dtype=torch.float64)]
    ours[1].requires_grad_()
    theirs = copy.deepcopy(ours)
    groups = [{"params": [ours[0]]}, {"params": [ours[1]], "weight_decay": 0.0}]
    optimizer = make_optimizer(groups, 0.1, options(**given))
    reference = kind([{"params": [theirs[0]]}, {"params": [theirs[1]], "weight_decay": 0.0}], 0.1, **settings)
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
        torch.testing.assert_close(one, other, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("given", [{"optim_mom": 0.9}, {"optimizer": "adam"}, {"optimizer": "adamw"}])
def test_the_state_is_there_before_the_first_step_and_stays_where_it_is(given, fused, monkeypatch):
    monkeypatch.setattr("utils.optimizer.is_fused", lambda parameter: fused)
    parameters = [torch.zeros(2, requires_grad=True), torch.zeros(3, requires_grad=True)]
    optimizer = make_optimizer([{"params": parameters}], 0.1, options(**given))
    before = [dict(optimizer.state[parameter]) for parameter in parameters_of(optimizer)]
    assert all(not value.any() for state in before for value in state.values())
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    for parameter, state in zip(parameters, before, strict=True):
        assert optimizer.state[parameter].keys() == state.keys()
        assert all(optimizer.state[parameter][name] is value for name, value in state.items())
        assert all(value.any() for value in state.values())


@pytest.mark.parametrize("given", [{"optim_mom": 0.9}, {"optimizer": "adam"}, {"optimizer": "adamw", "optim_wd": 0.1}])
def test_a_restored_optimizer_goes_on_exactly(given):
    random = torch.Generator().manual_seed(0)
    gradients = [torch.randn(4, generator=random) for _ in range(6)]
    first = torch.ones(4, requires_grad=True)
    original = make_optimizer([{"params": [first]}], 0.1, options(**given))

    def go_on(optimizer, parameter, some):
        for gradient in some:
            parameter.grad = gradient.clone()
            optimizer.step()

    go_on(original, first, gradients[:3])
    second = first.detach().clone().requires_grad_()
    restored = make_optimizer([{"params": [second]}], 0.1, options(**given))
    restored.load_state_dict(copy.deepcopy(original.state_dict()))
    for optimizer, parameter in ((original, first), (restored, second)):
        go_on(optimizer, parameter, gradients[3:])
    assert torch.equal(first, second)
    states = (itertools.chain(*(each.values() for each in made.state.values())) for made in (original, restored))
    for one, other in zip(*states, strict=True):
        assert torch.equal(one, other)


_ALL_IT_DOES = """
import sys, torch
from tests.utils.test_optimizer import make_optimizer, options
for name in ("sgd", "adam", "adamw"):
    parameter = torch.zeros(2, requires_grad=True)
    optimizer = make_optimizer([{"params": [parameter]}], 0.1, options(optimizer=name, optim_mom=0.9))
    for _ in range(2):
        optimizer.zero_grad()
        parameter.sum().backward()
        optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
print("torch._dynamo" in sys.modules)
"""


def test_the_compiler_of_pytorch_is_not_brought_in():
    """It would take more time than all else that a run begins with."""
    ended = subprocess.run([sys.executable, "-c", _ALL_IT_DOES], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ended.stdout.split() == ["False"]
