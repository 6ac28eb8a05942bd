import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from backbone.norm import build_norm
from models.afc import discrepancy
from models.heads import Network, ProxyHead
from tests.golden import cases
from tests.models.rig import FixedNetwork, assert_gradient, assert_matches, make_offline, rows, stages_of
from tests.models.test_podnet import Memory, maps_of, recorded_network, step
from utils.config.configuration import configure
from utils.data.plan import Pairs, Plain, Rows

CASES = cases("losses/afc.npz")
PUBLISHED = {"afc_lambda": 4.0, "second_epochs": 20, "second_lr": 0.05}


def importance_of(case):
    return [torch.tensor(case[f"in_importance.{index}"]) for index in range(4)]


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("name", ["discrepancy_uniform", "discrepancy_weighted"])
def test_distance_of_maps_is_the_published_one(name):
    case = CASES[name]
    maps = maps_of(case, "new")
    loss = discrepancy(maps, maps_of(case, "old"), importance_of(case))
    loss.backward()
    assert_matches(loss, case["out_loss"])
    for index, each in enumerate(maps):
        assert_gradient(each, case[f"grad_new_maps.{index}"])


def test_a_channel_without_activity_has_a_finite_gradient():
    maps = torch.zeros(2, 3, 4, 4, requires_grad=True)
    discrepancy([maps], [torch.rand(2, 3, 4, 4)], [torch.ones(3)]).backward()
    assert maps.grad.isfinite().all()


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("name", ["objective_cifar", "objective_imagenet"])
def test_losses_and_gradients_are_the_published_ones(name):
    case = CASES[name]
    params = case["params"]
    network = recorded_network(case)
    task = params["n_classes_including_new"] // params["task_size"] - 1
    teacher = FixedNetwork(None, None, maps_of(case, "old"))
    method = make_offline(
        "afc", task, params["task_size"], network, teacher, **PUBLISHED | {"afc_lambda": params["factor"]}
    )
    method.importance = importance_of(case)
    losses = step(method, case["in_labels"])
    for ours, recorded in {"loss": "loss", "nca": "term_nca", "discrepancy": "term_distill"}.items():
        assert_matches(losses[ours], case[f"out_{recorded}"])
    assert_matches(torch.cat([part.weight.grad for part in network.head.parts]), case["grad_weights"])
    assert_gradient(network.fixed.features, case["grad_new_features"])
    assert_matches(network.head.eta.grad, case["grad_scale"].reshape(1))
    for index, each in enumerate(network.fixed.maps):
        assert_gradient(each, case[f"grad_new_maps.{index}"])


# -- importance --------------------------------------------------------------------------------------------------------


class OneStage(nn.Module):
    """Images are the maps of the only stage."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward_maps(self, images):
        maps = self.scale * images
        return maps.mean(dim=(2, 3)), [maps]


def measuring(backbone, weights, num_classes, task=0, **options):
    """A method in its importance stage."""
    head = ProxyHead(weights.shape[1], len(weights) // num_classes).to(weights.dtype)
    head.grow(num_classes, weights)
    network = Network(backbone, head, half=options.pop("half", False))
    network.unused = nn.Parameter(torch.zeros(1))
    method = make_offline("afc", task, num_classes, network, None, **PUBLISHED | options)
    method.stage_name = "importance"
    return method


@pytest.mark.usefixtures("device")
def test_importance_is_the_published_one():
    case = CASES["importance_from_nca"]
    method = measuring(OneStage(), torch.tensor(case["in_weights"]), 4)
    method.network.head.eta.data.fill_(case["params"]["scale"])
    for number in range(2):
        images = torch.tensor(case[f"in_stage_b{number}"])
        method.observe(rows(images, case[f"in_labels_b{number}"]))
    assert_matches(method.sums[0], case["out_importance_sum"])
    finish(method)
    assert_matches(method.importance[0], case["out_importance"])
    assert method.network.backbone.scale.grad is None


@pytest.mark.usefixtures("device")
def test_importance_adds_up_over_batches_as_published():
    case = CASES["importance_accumulation"]
    method = measuring(OneStage(), torch.ones(8, 6).double(), 4)
    for number in range(3):
        method.add_importance([torch.tensor(case[f"in_grads_b{number}.{index}"]) for index in range(4)])
    for index in range(4):
        assert_matches(method.sums[index], case[f"out_importance_sum.{index}"])
    finish(method)
    for index in range(4):
        assert_matches(method.importance[index], case[f"out_importance.{index}"])


def finish(method):
    method.memory, method.stream.pool = Memory(0), lambda tasks: None
    method.end_task(method.task)


def test_importance_of_a_task_does_not_depend_on_the_one_before():
    batch = rows(torch.rand(6, 5, 3, 3, generator=torch.Generator().manual_seed(0)).double())
    method = measuring(OneStage(), torch.eye(8, 5).double(), 4)
    found = []
    for _ in range(2):
        method.observe(batch)
        finish(method)
        found.append(method.importance[0])
    assert torch.equal(found[0], found[1])


class Normalised(nn.Module):
    """A convolution and a norm layer."""

    def __init__(self, norm):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.convolution = nn.Conv2d(3, 5, 3)
        self.norm = norm

    def forward_maps(self, images):
        maps = self.norm(self.convolution(images))
        return maps.mean(dim=(2, 3)), [maps]


@pytest.mark.parametrize("half", [False, True])
def test_measuring_moves_the_running_statistics_and_no_parameter(half):
    method = measuring(Normalised(nn.BatchNorm2d(5)), torch.eye(8, 5), 4, half=half)
    before = copy.deepcopy(method.network.state_dict())
    method.observe(rows(torch.rand(6, 3, 5, 5)))
    moved = {name for name, value in method.network.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {f"backbone.norm.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")}
    assert method.sums[0].min() > 0
    assert method.sums[0].dtype == torch.float32


@pytest.mark.parametrize(("num_current", "differs"), [(None, False), (6, True)])
def test_norm_layers_are_told_the_composition_while_measuring(num_current, differs):
    found = {}
    for name in ("BN", "TBBN"):
        method = measuring(Normalised(build_norm(name, 5)), torch.eye(8, 5), 4, task=1)
        method.network.backbone.norm.task = 1
        batch = rows(torch.rand(8, 3, 5, 5, generator=torch.Generator().manual_seed(1)), task=1)
        method.observe(SimpleNamespace(**vars(batch) | {"num_current": num_current}))
        found[name] = method.sums[0]
    assert torch.equal(found["BN"], found["TBBN"]) != differs


def test_no_regularizer_is_left_for_the_next_task():
    norm = build_norm("AdaB2N", 5, num_tasks=2)
    method = measuring(Normalised(norm), torch.eye(8, 5), 4)
    method.regularized = True
    method.observe(SimpleNamespace(**vars(rows(torch.rand(8, 3, 5, 5))) | {"num_current": 6}))
    assert method._norm_loss is None


# -- stages and state --------------------------------------------------------------------------------------------------


def test_importance_is_measured_on_the_batches_of_the_main_stage():
    method = measuring(OneStage(), torch.eye(8, 5).double(), 4, lr=0.1)
    assert [stage.name for stage in stages_of(method, 0)] == ["main", "importance"]
    main, second, importance = stages_of(method, 1)
    assert second.data == Plain(Rows(exemplars=1), drop_last=False)
    assert main.data == importance.data == Pairs(Rows((1,)), Rows(exemplars=1), 3, "replay")
    assert (importance.epochs, importance.lr, importance.keep) == (1, 0.0, "last")
    assert [stage.trains for stage in (main, second, importance)] == [True, True, False]


class SavedMemory(Memory):
    def state_dict(self):
        return {"num_classes": self.num_classes}

    def load_state_dict(self, state, pool):
        self.num_classes = state["num_classes"]


def test_importance_is_measured_beside_the_exemplars_of_the_main_stage():
    method = measuring(OneStage(), torch.eye(8, 5).double(), 4, task=1)
    method.memory, method.stream.pool = SavedMemory(4), lambda tasks: None
    main, second, importance = stages_of(method, 1)
    method.begin_stage(main)
    for _ in range(2):  # it begins again when a run goes on
        method.begin_stage(second)
        assert method.memory.num_classes == 8
    method.begin_stage(importance)
    assert method.memory.num_classes == 4
    assert method.replayed is None


def test_state_holds_the_importance_and_what_is_being_measured():
    method = measuring(OneStage(), torch.eye(8, 5).double(), 4)
    batch = rows(torch.rand(6, 5, 3, 3).double())
    method.observe(batch)
    method.importance = [torch.rand(5).double()]
    method.optimizer = None
    resumed = measuring(OneStage(), torch.zeros(8, 5).double(), 4)
    resumed.load_state_dict(copy.deepcopy(method.state_dict()))
    assert torch.equal(resumed.importance[0], method.importance[0])
    for each in (method, resumed):
        each.observe(batch)
    assert torch.equal(resumed.sums[0], method.sums[0])


@pytest.mark.parametrize(
    ("dataset", "expected"),
    [
        ("seq-cifar100", {"backbone": "podnet_resnet32", "lr": 0.1, "afc_lambda": 4.0, "second_lr": 0.05}),
        ("seq-cifar10", {"backbone": "podnet_resnet32", "epochs": 160, "batch_size": 128, "second_epochs": 20}),
        ("seq-digits", {"backbone": "podnet_resnet32", "epochs": 10, "batch_size": 64, "optim_wd": 5e-4}),
        ("seq-dissimilar", {"epochs": 100, "batch_size": 64, "second_epochs": 13, "second_lr": 0.05, "optim_mom": 0.9}),
    ],
)
def test_published_settings(dataset, expected):
    values = configure(["--model", "afc", "--dataset", dataset]).values
    assert {name: values[name] for name in expected} == expected
