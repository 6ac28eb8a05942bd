import pytest
import torch

from tests.golden import cases
from tests.models.rig import FixedNetwork, assert_gradient, assert_matches, leaf, make_offline, observe
from utils.data_plan import Pairs, Plain, Rows

CASES = cases("losses/eeil.npz", "facil_")


def part(case, prefix):
    return [leaf(case[key]) for key in sorted(case) if key.startswith(prefix)]


@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradients_are_the_published_ones(name):
    case = CASES[name]
    heads, old = part(case, "in_head_logits"), part(case, "in_old_head_logits")
    teacher = FixedNetwork(torch.cat(old, dim=1)) if old else None
    method = make_offline("eeil", case["params"]["task"], 3, FixedNetwork(torch.cat(heads, dim=1)), teacher)
    method.stage_name = "balance" if case["params"]["balanced_stage"] else "main"
    assert_matches(observe(method, case["in_labels"])["loss"], case["out_loss"])
    for index, head in enumerate(heads):
        assert_gradient(head, case[f"grad_head_logits.{index}"])


def stages(task, **options):
    return make_offline("eeil", task, 3, FixedNetwork(torch.zeros(1, 3)), None, lr=0.1, **options).stages(task)


def test_first_task_has_one_stage():
    assert [stage.data for stage in stages(0)] == [Plain(Rows((0,)))]


def test_second_stage_as_released():
    main, second = stages(2)
    beside = Rows(exemplars=1)
    assert main.data == Pairs(Rows((2,), exemplars=1), beside, 3, "replay", drop_last=True)
    assert second.data == Pairs(Rows((2,), exemplars=2), beside, 3, "replay", drop_last=True)
    assert (second.epochs, second.milestones) == (40, ())
    assert second.lr == pytest.approx(0.001)


def test_balanced_second_stage_takes_as_many_current_images():
    _, second = stages(2, eeil_second_stage="balanced")
    assert second.data == Plain(Rows((2,), exemplars=1, balanced=True))


def test_newest_old_head_is_distilled_on_request():
    case = CASES["facil_t2_balanced"]
    heads, old = part(case, "in_head_logits"), part(case, "in_old_head_logits")
    network, teacher = FixedNetwork(torch.cat(heads, dim=1)), FixedNetwork(torch.cat(old, dim=1))
    method = make_offline("eeil", 2, 3, network, teacher, eeil_skip_newest_head=False)
    assert_matches(observe(method, case["in_labels"])["loss"], case["out_loss"])
