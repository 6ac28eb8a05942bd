import pytest
import torch
from torch.nn.functional import cross_entropy

from tests.golden import cases
from tests.models.rig import FixedNetwork, assert_gradient, assert_matches, leaf, make_offline, observe

CASES = cases("losses/eeil.npz", "lwf_")


def part(case, prefix):
    return [leaf(case[key]) for key in sorted(case) if key.startswith(prefix)]


def observed(case, **options):
    """The outputs of every task, leaves, and the losses of a step on them."""
    heads, old = part(case, "in_head_logits"), part(case, "in_old_head_logits")
    network, teacher = FixedNetwork(torch.cat(heads, dim=1)), FixedNetwork(torch.cat(old, dim=1))
    method = make_offline("lwf", case["params"]["task"], 3, network, teacher, **options)
    return heads, observe(method, case["in_labels"])


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradients_are_the_published_ones(name):
    case = CASES[name]
    heads, losses = observed(case)
    assert_matches(losses["loss"], case["out_loss"])
    for index, head in enumerate(heads):
        assert_gradient(head, case[f"grad_head_logits.{index}"])


def test_distillation_has_its_weight():
    (_, once), (_, twice) = (observed(CASES["lwf_joint_softmax_t2"], lwf_lambda=weight) for weight in (1.0, 2.0))
    assert_matches(twice["distillation"], 2 * once["distillation"].numpy())
    assert_matches(twice["loss"], (once["loss"] + once["distillation"]).numpy())


def test_gradient_stays_finite_where_an_old_class_has_no_probability_left():
    logits = leaf(torch.tensor([[0.0, 1e4, 0, 0]], dtype=torch.float64).numpy())
    teacher = FixedNetwork(torch.tensor([[1e4, 0.0]], dtype=torch.float64))
    method = make_offline("lwf", 1, 2, FixedNetwork(logits), teacher)
    losses = observe(method, torch.tensor([1]).numpy())
    floor = torch.tensor(0.5e-5 / (1 + 1e-5), dtype=torch.float64)
    assert_matches(losses["distillation"], -floor.log().numpy())
    assert logits.grad.isfinite().all()


def test_first_task_is_plain_cross_entropy():
    logits = leaf(CASES["lwf_joint_softmax_t1"]["in_head_logits.0"])
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    losses = observe(make_offline("lwf", 0, 3, FixedNetwork(logits), None), labels.numpy())
    assert_matches(losses["loss"], cross_entropy(logits, labels).detach().numpy())
