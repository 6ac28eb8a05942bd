from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from models.heads import Outputs
from tests.golden import cases
from tests.models.rig import FixedNetwork, assert_gradient, assert_matches, leaf, make_offline, observe
from utils.data.pools import TensorPool

CASES = cases("losses/icarl.npz")
BCE = [name for name in CASES if name.startswith("bce_")]
FACIL = [name for name in CASES if name.startswith("facil_")]


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("name", BCE)
def test_loss_and_gradient_are_the_published_ones(name):
    case = CASES[name]
    params = case["params"]
    num_new = params.get("classes_per_task", params.get("n_new"))
    num_old = params.get("n_old", params.get("task", 0) * num_new)
    logits = leaf(case["in_logits"])
    teacher = FixedNetwork(torch.tensor(case["in_old_logits"])) if num_old else None
    method = make_offline("icarl", num_old // num_new, num_new, FixedNetwork(logits), teacher)
    assert_matches(observe(method, case["in_labels"])["loss"], case["out_loss"])
    assert_gradient(logits, case["grad_logits"])


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("name", FACIL)
def test_cross_entropy_beside_binary_cross_entropy_is_the_published_one(name):
    case = CASES[name]
    heads, old = ([leaf(case[key]) for key in sorted(case) if key.startswith(f"in_{kind}")] for kind in ("head", "old"))
    network, teacher = FixedNetwork(torch.cat(heads, dim=1)), FixedNetwork(torch.cat(old, dim=1))
    method = make_offline("icarl", case["params"]["task"], 3, network, teacher, icarl_loss="ce_bce")
    assert_matches(observe(method, case["in_labels"])["loss"], case["out_loss"])
    for index, head in enumerate(heads):
        assert_gradient(head, case[f"grad_head_logits.{index}"])


def test_first_task_of_that_form_is_plain_cross_entropy():
    case = CASES["facil_ce_plus_bce_t1"]
    logits, labels = leaf(case["in_head_logits.0"]), case["in_labels"] % 3
    losses = observe(make_offline("icarl", 0, 3, FixedNetwork(logits), None, icarl_loss="ce_bce"), labels)
    assert losses.keys() == {"ce", "loss"}
    assert_matches(losses["loss"], cross_entropy(logits, torch.tensor(labels)).detach().numpy())


def holding(exemplars, labels):
    """A memory of these exemplars, class after class."""
    return SimpleNamespace(pool=lambda: TensorPool(exemplars, labels, labels))


def with_features(exemplars, **options):
    """A method whose exemplars [classes][n, D, 1, 2] are their features, and beside them those of mirror images."""
    network = FixedNetwork(None)
    network.outputs = lambda images: Outputs(None, images[..., 0].flatten(1), [])
    method = make_offline("icarl", 0, 4, network, None, **options)
    method.prepare = lambda raw: raw
    method.memory = holding(
        torch.cat(exemplars), torch.arange(4).repeat_interleave(torch.tensor([*map(len, exemplars)]))
    )
    method.means = method.class_means()
    return method


@pytest.mark.usefixtures("device")
def test_means_without_mirror_images_are_the_published_ones():
    case = CASES["nme_no_flip_features"]
    features, labels, queries = (
        torch.tensor(case[f"in_{name}"]) for name in ("exemplar_features", "exemplar_labels", "query_features")
    )
    pairs = torch.stack([features, features.roll(1, dims=1)], dim=2).unsqueeze(2)
    method = with_features([pairs[labels == label] for label in range(4)], icarl_flip=False)
    assert_matches(method.means, case["out_class_means"])
    scores = method.scores(queries[..., None, None])
    assert_matches(-scores, case["out_sq_distances"])
    assert scores.argmax(dim=1).tolist() == case["out_predictions"].tolist()


def means_and_scores(case, epsilon):
    """What the program of `nme_flip_average_features` computes, with this number added to every norm that divides."""

    def unit(values):
        return values / (np.linalg.norm(values, axis=-1, keepdims=True) + epsilon)

    chosen = case["in_exemplar_indices"][..., None]
    views = [unit(case[f"in_features{name}"]) for name in ("", "_flipped")]
    means = unit(sum(np.take_along_axis(view, chosen, axis=1).mean(axis=1) for view in views) / 2)
    distances = unit(case["in_query_features"])[:, None] - means
    return means, -np.square(distances).sum(axis=2)


@pytest.mark.usefixtures("device")
def test_means_with_features_of_mirror_images_are_the_published_ones():
    """The program adds 10⁻⁸ to norms, and the two others add nothing: with nothing, its means are ours."""
    case = CASES["nme_flip_average_features"]
    recorded, expected = (means_and_scores(case, epsilon) for epsilon in (case["params"]["eps"], 0.0))
    np.testing.assert_allclose(recorded[0], case["out_class_means"], rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(recorded[1], case["out_scores"], rtol=1e-9, atol=1e-11)
    pairs = torch.stack([torch.tensor(case[f"in_features{name}"]) for name in ("", "_flipped")], dim=3)
    chosen = torch.tensor(case["in_exemplar_indices"])
    method = with_features([pairs[label, chosen[label]].unsqueeze(2) for label in range(4)])
    scores = method.scores(torch.tensor(case["in_query_features"])[..., None, None])
    assert_matches(method.means, expected[0])
    assert_matches(scores, expected[1])
    assert scores.argmax(dim=1).tolist() == case["out_predictions"].tolist()


@pytest.mark.usefixtures("device")
def test_means_and_scores_of_images_are_the_published_ones():
    case = CASES["nme_flip_average_images"]
    projection, exemplars, labels = (
        torch.tensor(case[f"in_{name}"]) for name in ("projection", "exemplars", "exemplar_labels")
    )
    network = FixedNetwork(None)
    network.outputs = lambda images: Outputs(None, images.flatten(1) @ projection, [])
    method = make_offline("icarl", 0, 4, network, None)
    method.prepare = lambda raw: raw
    order = labels.argsort(stable=True)
    method.memory = holding(exemplars[order], labels[order])
    method.means = method.class_means()
    assert_matches(method.means, case["out_class_means"])
    scores = method.scores(torch.tensor(case["in_queries"]))
    assert_matches(scores, case["out_scores"])
    assert scores.argmax(dim=1).tolist() == case["out_predictions"].tolist()


@pytest.mark.parametrize("flip", [False, True])
def test_the_exemplars_of_all_classes_share_batches_as_large_as_those_of_evaluation(flip):
    exemplars = torch.randint(0, 256, (250, 3, 32, 32), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    labels = torch.arange(5).repeat_interleave(50)
    network, sizes = FixedNetwork(None), []

    def outputs(images, maps=False):
        sizes.append(len(images))
        return Outputs(None, images[..., 0].double().flatten(1), [])

    network.outputs = outputs
    method = make_offline("icarl", 0, 5, network, None, icarl_flip=flip)
    method.prepare, method.memory = lambda raw: raw, holding(exemplars, labels)
    means = method.class_means()
    assert sizes == [100, 100, 50] * (1 + flip)
    views = [exemplars, exemplars.flip(3)][: 1 + flip]
    directions = [normalize(view[..., 0].double().flatten(1)).view(5, 50, -1).mean(dim=1) for view in views]
    torch.testing.assert_close(means, normalize(sum(directions) / len(views)))
