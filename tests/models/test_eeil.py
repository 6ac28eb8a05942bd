import pytest
import torch

from tests.golden import cases
from tests.models.rig import FixedNetwork, assert_gradient, assert_matches, leaf, make_offline, observe, stages_of
from utils.data.plan import Pairs, Plain, Rows

CASES = cases("losses/eeil.npz", "facil_")
KL_CASES = cases("losses/eeil.npz", "kl_")


def part(case, prefix):
    return [leaf(case[key]) for key in sorted(case) if key.startswith(prefix)]


@pytest.mark.usefixtures("device")
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


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("name", KL_CASES)
def test_divergence_and_its_gradient_are_the_published_ones(name):
    case = KL_CASES[name]
    logits, before = leaf(case["in_logits"]), FixedNetwork(torch.tensor(case["in_old_logits"]))
    task, num_new = case["params"]["task"], case["params"]["step"]
    options = {"eeil_distill": "kl", "eeil_skip_newest_head": False}
    method = make_offline("eeil", task, num_new, FixedNetwork(logits), before, **options)
    if name.endswith("_balanced"):
        method.teacher, method.unbalanced, method.stage_name = None, before, "balance"
    assert_matches(observe(method, case["in_labels"])["loss"], case["out_loss"])
    assert_gradient(logits, case["grad_logits"])


def test_divergence_leaves_out_the_newest_old_task_on_request():
    case = KL_CASES["kl_per_task_t3_unbalanced"]
    losses = []
    for skips in (True, False):
        network, teacher = FixedNetwork(leaf(case["in_logits"])), FixedNetwork(torch.tensor(case["in_old_logits"]))
        options = {"eeil_distill": "kl", "eeil_skip_newest_head": skips}
        losses.append(observe(make_offline("eeil", 3, 3, network, teacher, **options), case["in_labels"]))
    assert losses[0]["ce"] == losses[1]["ce"]
    assert 0 < losses[0]["distillation"] < losses[1]["distillation"]


def begun(network, distill, stage=1):
    """A method of which a stage has begun, in the second task."""
    method = make_offline("eeil", 1, 3, network, FixedNetwork(torch.zeros(1, 3)), lr=0.1, eeil_distill=distill)
    method.begin_stage(stages_of(method, 1)[stage])
    return method


def test_copy_is_made_when_the_second_stage_begins_and_only_once():
    network = FixedNetwork(torch.zeros(1, 6))
    method = begun(network, "kl")
    with torch.no_grad():
        network.unused += 1
    method.begin_stage(stages_of(method, 1)[1])
    assert method.unbalanced.unused == 0
    assert not method.unbalanced.training
    assert not any(parameter.requires_grad for parameter in method.unbalanced.parameters())


@pytest.mark.parametrize(("distill", "stage"), [("kl", 0), ("bce", 0), ("bce", 1)])
def test_no_copy_where_none_is_distilled_from(distill, stage):
    assert begun(FixedNetwork(torch.zeros(1, 6)), distill, stage).unbalanced is None


def test_next_task_has_a_copy_of_its_own():
    method = begun(FixedNetwork(torch.zeros(1, 6)), "kl")
    method.choose_exemplars = lambda: None
    method.end_task(1)
    assert method.unbalanced is None


def stages(task, **options):
    return stages_of(make_offline("eeil", task, 3, FixedNetwork(torch.zeros(1, 3)), None, lr=0.1, **options), task)


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
