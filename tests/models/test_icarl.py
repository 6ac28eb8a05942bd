from types import SimpleNamespace

import pytest
import torch

from models.heads import Outputs
from tests.golden import cases
from tests.models.rig import FixedNetwork, assert_gradient, assert_matches, leaf, make_offline, observe

CASES = cases("losses/icarl.npz")
BCE = [name for name in CASES if name.startswith("bce_")]


@pytest.mark.parametrize("name", BCE)
def test_loss_and_gradient_are_the_published_ones(name):
    case = CASES[name]
    params = case["params"]
    num_new = params.get("classes_per_task", params.get("n_new"))
    num_old = params.get("n_old", params.get("task", 0) * num_new)
    logits = leaf(case["in_logits"])
    teacher = FixedNetwork(torch.from_numpy(case["in_old_logits"])) if num_old else None
    method = make_offline("icarl", num_old // num_new, num_new, FixedNetwork(logits), teacher)
    assert_matches(observe(method, case["in_labels"])["loss"], case["out_loss"])
    assert_gradient(logits, case["grad_logits"])


def test_means_and_scores_of_images_are_the_published_ones():
    case = CASES["nme_flip_average_images"]
    projection, exemplars, labels = (
        torch.from_numpy(case[f"in_{name}"]) for name in ("projection", "exemplars", "exemplar_labels")
    )
    network = FixedNetwork(None)
    network.outputs = lambda images: Outputs(None, images.flatten(1) @ projection, [])
    method = make_offline("icarl", 0, 4, network, None)
    method.prepare = lambda raw: raw
    method.memory = SimpleNamespace(of_class=lambda label: exemplars[labels == label])
    method.means = torch.stack([method.mean_of(label) for label in range(4)])
    assert_matches(method.means, case["out_class_means"])
    scores = method.scores(torch.from_numpy(case["in_queries"]))
    assert_matches(scores, case["out_scores"])
    assert scores.argmax(dim=1).tolist() == case["out_predictions"].tolist()
