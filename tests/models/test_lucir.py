from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import cross_entropy

from backbone.norm import norm_factory
from models.heads import CosineHead, Outputs
from models.lucir import highest
from tests.golden import cases
from tests.models.rig import FixedNetwork, assert_gradient, assert_matches, leaf, make_offline, observe
from utils.config.configuration import configure
from utils.config.registry import BACKBONES
from utils.errors import UserError

CASES = cases("losses/lucir.npz", "objective_t")
ORIGINAL_CASES = cases("losses/lucir.npz", "original_MR_LF")
TERMS = {"loss": "loss", "ce": "term_ce", "distillation": "term_distill", "ranking": "term_margin"}


class Cosine(FixedNetwork):
    """Recorded features under a cosine head with recorded weights."""

    def __init__(self, features, parts, sigma):
        super().__init__(None, features)
        self.head = CosineHead(features.shape[1]).double()
        for weight in parts:
            self.head.grow(len(weight))
            self.head.parts[-1].weight = torch.nn.Parameter(torch.tensor(weight))
        self.head.sigma = torch.nn.Parameter(torch.tensor(sigma))
        self.backbone = torch.nn.Module()
        self.backbone.drop_last_relu = lambda stage: None

    def outputs(self, images, maps=False):
        return Outputs(self.head(self.fixed.features), self.fixed.features, [])


def network_of(case, features, old="old_head"):
    weights = [case[f"in_{old}_weights"], case["in_new_head_weight"]]
    return Cosine(features, weights, case["in_sigma"])


def options_of(params):
    distilled = "features" if params["less_forget"] else "scores"
    options = {"lucir_lambda": params["lamb_base"], "lucir_margin": params["margin"], "lucir_rivals": params["K"]}
    return options | {"lucir_distill": distilled, "lucir_ranking": params["margin_ranking"]}


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("name", CASES)
def test_losses_and_gradients_are_the_published_ones(name):
    case = CASES[name]
    params, features = case["params"], leaf(case["in_features"])
    network = network_of(case, features)
    teacher = Cosine(torch.tensor(case["in_ref_features"]), [case["in_ref_head_weights"]], case["in_sigma"])
    method = make_offline("lucir", params["task"], params["n_new"], network, teacher, **options_of(params))
    losses = observe(method, case["in_labels"])
    assert ("ranking" in losses) == params["margin_ranking"]
    for ours in TERMS.keys() & losses.keys():
        assert_matches(losses[ours], case[f"out_{TERMS[ours]}"])
    assert_gradient(features, case["grad_features"])
    assert_gradient(network.head.parts[-1].weight, case["grad_new_head_weight"])
    assert_gradient(network.head.sigma, case["grad_sigma"])


def test_defaults_are_those_of_the_published_runs():
    published = CASES["objective_t3_K2"]["params"]
    config = make_offline("lucir", 1, 3, Cosine(torch.zeros(1, 8), [], torch.ones(1).numpy()), None).config
    assert options_of(published).items() <= vars(config).items()


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("name", ORIGINAL_CASES)
def test_loss_and_gradients_of_the_first_program(name):
    """Its old class weights have a gradient too, and are kept by a learning rate of 0."""
    case = ORIGINAL_CASES[name]
    params, features = case["params"], leaf(case["in_features"])
    network = network_of(case, features)
    teacher = FixedNetwork(None, torch.tensor(case["in_ref_features"]))
    options = {"lucir_margin": params["margin"], "lucir_rivals": params["K"]}
    method = make_offline("lucir", 1, params["n_new"], network, teacher, **options)
    num_old, num_seen = params["n_old"], params["n_old"] + params["n_new"]
    method.stream = SimpleNamespace(classes_of_task=[range(num_old), range(num_old, num_seen)].__getitem__)
    assert_matches(observe(method, case["in_labels"])["loss"], case["out_loss"])
    assert_gradient(features, case["grad_features"])
    for part, recorded in zip(network.head.parts, ("old_head_weights", "new_head_weight"), strict=True):
        assert_gradient(part.weight, case[f"grad_{recorded}"])
    assert_gradient(network.head.sigma, case["grad_sigma"])


def test_all_new_classes_are_rivals_where_they_are_fewer():
    case = CASES["objective_t2_margin0.2_K3"]
    losses = []
    for num_rivals in (3, 4):
        network = network_of(case, torch.tensor(case["in_features"]))
        teacher = FixedNetwork(None, torch.tensor(case["in_ref_features"]))
        method = make_offline("lucir", 2, 3, network, teacher, lucir_rivals=num_rivals)
        losses.append(observe(method, case["in_labels"])["ranking"])
    assert losses[0] == losses[1] > 0


@pytest.mark.parametrize("words", ["--lucir_margin 0.2", "--lucir_rivals 1"])
def test_options_of_a_ranking_that_is_left_out_are_refused(words):
    line = f"--model lucir --dataset seq-cifar100 {words}"
    configure(line.split())
    with pytest.raises(UserError, match=f"{words.split()[0]} changes nothing .* --lucir_ranking 1"):
        configure([*line.split(), "--lucir_ranking", "0"])


def test_what_is_distilled_matters_only_with_a_weight():
    with pytest.raises(UserError, match="--lucir_distill changes nothing"):
        configure(["--model", "lucir", "--dataset", "seq-cifar100", "--lucir_lambda", "0", "--lucir_distill", "scores"])


def identity_of(words):
    return configure(["--model", "lucir", "--dataset", "seq-cifar100", *words.split()]).identity("data")


def test_the_third_stage_of_three_is_the_final_one():
    assert identity_of("") == identity_of("--lucir_relu final")
    assert identity_of("--backbone resnet18") != identity_of("--backbone resnet18 --lucir_relu final")


def test_a_network_without_such_a_relu_has_none_to_remove():
    with pytest.raises(UserError, match=r"--lucir_relu changes nothing .* --backbone podnet_resnet32 has no ReLU"):
        identity_of("--backbone podnet_resnet32 --lucir_relu final")


@pytest.mark.parametrize("name", BACKBONES.names())
def test_what_is_said_of_stages_is_so(name):
    backbone = BACKBONES.get(name)(norm_factory("BN"), image_size=64)
    assert len(backbone.stages) == backbone.num_stages
    assert {stage[-1].last_relu for stage in backbone.stages} == {backbone.ends_stages_in_relu}


def test_old_class_weights_get_no_gradient():
    parts = [torch.randn(3, 8).numpy() for _ in range(2)]
    features = torch.randn(4, 8, requires_grad=True)
    method = make_offline("lucir", 1, 3, Cosine(features, parts, torch.ones(1).numpy()), None)
    method.config.lucir_lambda = 0.0
    method.network.double()
    method.network.fixed = Outputs(None, features.double(), [])
    method.begin_stage(method.stage(method.config, (1,)))
    cross_entropy(method.network.outputs(None).scores, torch.tensor([0, 1, 3, 4])).backward()
    old, new = (part.weight.grad for part in method.network.head.parts)
    assert old is None
    assert new.abs().sum() > 0


def test_old_class_weights_are_frozen():
    parts = [torch.zeros(3, 8).numpy(), torch.zeros(3, 8).numpy()]
    network = Cosine(torch.zeros(1, 8), parts, torch.ones(1).numpy())
    method = make_offline("lucir", 1, 3, network, None)
    trained = {id(parameter) for parameter in method.trained(None)}
    assert trained == {id(network.head.parts[1].weight), id(network.head.sigma)}


@pytest.mark.parametrize("number", [1, 2, 5])
def test_the_highest_values_are_those_of_topk_with_their_gradients(number):
    values = torch.randn(7, 5, dtype=torch.float64)
    values[0, :3] = values[0, 4]  # equal ones count each
    ours, theirs = values.clone().requires_grad_(), values.clone().requires_grad_()
    weights = torch.rand(7, number, dtype=torch.float64)
    found, expected = highest(ours, number), theirs.topk(number, dim=1).values
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    assert torch.equal(found, expected)
    assert torch.equal(ours.grad[1:], theirs.grad[1:])
    assert torch.equal(ours.grad[0].sort().values, theirs.grad[0].sort().values)


def test_distillation_weighs_by_the_classes_of_unequal_tasks():
    """λ = λ_base √(old / new), whatever the sizes of the tasks are."""
    features, weights = torch.randn(4, 3, dtype=torch.float64), [torch.randn(6, 3).double(), torch.randn(2, 3).double()]
    parts = [each.numpy() for each in weights]
    method = make_offline("lucir", 1, 2, Cosine(features, parts, 1.0), Cosine(-features, parts[:1], 1.0))
    method.stream = SimpleNamespace(classes_of_task=[range(6), range(6, 8)].__getitem__, boundaries="sharp")
    losses = observe(method, [0, 1, 6, 7])
    assert float(losses["distillation"]) == pytest.approx(5 * (6 / 2) ** 0.5 * 2)
