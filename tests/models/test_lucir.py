import pytest
import torch

from models.heads import CosineHead, Outputs
from tests.golden import cases
from tests.models.rig import FixedNetwork, assert_gradient, assert_matches, leaf, make_offline, observe

# The program's own form: two rivals and the less-forget term.
CASES = cases("losses/lucir.npz", "objective_t")
STANDARD = [name for name in CASES if name.endswith(("_K2", "_no_hard_samples"))]


class Cosine(FixedNetwork):
    """Recorded features under a cosine head with recorded weights."""

    def __init__(self, features, parts, sigma):
        super().__init__(None, features)
        self.head = CosineHead(features.shape[1]).double()
        for weight in parts:
            self.head.grow(len(weight))
            self.head.parts[-1].weight = torch.nn.Parameter(torch.from_numpy(weight))
        self.head.sigma = torch.nn.Parameter(torch.from_numpy(sigma))
        self.backbone = torch.nn.Module()
        self.backbone.drop_last_relu = lambda stage: None

    def outputs(self, images):
        return Outputs(self.head(self.fixed.features), self.fixed.features, [])


@pytest.mark.parametrize("name", STANDARD)
def test_losses_and_gradients_are_the_published_ones(name):
    case = CASES[name]
    features = leaf(case["in_features"])
    network = Cosine(features, [case["in_old_head_weights"], case["in_new_head_weight"]], case["in_sigma"])
    teacher = FixedNetwork(None, torch.from_numpy(case["in_ref_features"]))
    method = make_offline("lucir", case["params"]["task"], case["params"]["n_new"], network, teacher)
    losses = observe(method, case["in_labels"])
    terms = {"loss": "loss", "ce": "term_ce", "distillation": "term_distill", "ranking": "term_margin"}
    for ours, recorded in terms.items():
        assert_matches(losses[ours], case[f"out_{recorded}"])
    assert_gradient(features, case["grad_features"])
    assert_gradient(network.head.parts[-1].weight, case["grad_new_head_weight"])
    assert_gradient(network.head.sigma, case["grad_sigma"])


def test_old_class_weights_are_frozen():
    parts = [torch.zeros(3, 8).numpy(), torch.zeros(3, 8).numpy()]
    network = Cosine(torch.zeros(1, 8), parts, torch.ones(1).numpy())
    method = make_offline("lucir", 1, 3, network, None)
    trained = {id(parameter) for parameter in method.trained(None)}
    assert trained == {id(network.head.parts[1].weight), id(network.head.sigma)}
