"""Norm layers measured on copies, in small networks and in whole runs."""

import copy
import json
import os
import signal
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from backbone.norm import build_norm
from tests.utils.data.augment_rig import Unchanged
from utils.config.registry import NORMS
from utils.data.loaders import Loaders
from utils.data.pools import TensorPool
from utils.errors import UserError
from utils.inference import evaluating
from utils.main import main
from utils.run.diagnosis import Moments, NormDiagnosis, add_diagnosis, distance, train_alone, watching
from utils.run.evaluate import Counts

pytestmark = pytest.mark.usefixtures("shallow")


class SmallStream:
    """Two tasks of 20 images of 8x8, of which the later ones are brighter."""

    image_shape = (3, 8, 8)

    def __init__(self):
        random = torch.Generator().manual_seed(0)
        self.images = torch.randint(0, 120, (40, 3, 8, 8), generator=random).to(torch.uint8)
        self.images[20:] += 100
        self.labels = torch.arange(40) % 2 + 2 * (torch.arange(40) >= 20)

    def pool(self, tasks):
        rows = torch.cat([torch.arange(20 * task, 20 * task + 20) for task in tasks])[: len(self.labels)]
        return TensorPool(self.images[rows], self.labels[rows], rows // 20)


class SilentSinks:
    """Keep what is said, and the last place that is told."""

    def __init__(self):
        self.screen = self.progress = self
        self.said, self.told = [], {}

    def say(self, text):
        self.said.append(text)

    def update(self, **changes):
        self.told |= changes


def prepare(raw):
    return raw.float() / 255


def small_network(norm, **options):
    torch.manual_seed(0)
    more = {"num_tasks": 2} if norm == "AdaB2N" else {"num_groups": 2} if norm in ("GN", "CN") else {}
    layer = build_norm(norm, 4, spatial_size=8, **more, **options)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), layer, nn.ReLU(), nn.Flatten(), nn.Linear(256, 4))


def diagnosis_of(norm, check=lambda: None, logits=lambda network, images: network(images), **options):
    values = {"retune_norms": 2, "debug_mode": 0, "lr": 1.0, "nl": norm}
    values |= {"optimizer": "sgd", "optim_mom": 0.0, "optim_nesterov": False, "optim_wd": 0.0, "decay_norms": True}
    values |= options
    config = SimpleNamespace(parts=SimpleNamespace(norm=NORMS.get(norm)), **values)
    stream = SmallStream()
    loaders = Loaders(stream, None, Unchanged(prepare), 8, 0)
    return NormDiagnosis(stream, loaders, prepare, logits, config, SilentSinks(), check)


def same_state(first, second):
    return all(torch.equal(value, second[name]) for name, value in first.items())


def moments_of(maps):
    moments = Moments()
    for part in maps.split(3):
        moments.add(part)
    return moments


# -- distances ---------------------------------------------------------------------------------------------------------


def test_moments_keep_a_small_spread_beside_a_large_mean():
    maps = (1e3 + 1e-2 * torch.randn(7, 2, 4, 4, dtype=torch.float64)).float()
    mean, variance = moments_of(maps).mean_and_variance()
    exact = maps.double().numpy()
    np.testing.assert_allclose(mean, exact.mean((0, 2, 3)), rtol=1e-14)
    np.testing.assert_allclose(variance, exact.var((0, 2, 3)), rtol=1e-4)


def test_distance_is_the_root_mean_square_over_channels():
    layer = build_norm("BN", 2, eps=0.5)
    layer.running_mean.copy_(torch.tensor([1.0, -3.0]))
    layer.running_var.copy_(torch.tensor([3.5, 0.5]))
    maps = torch.randn(6, 2, 4, 4) * torch.tensor([1.0, 3.0]).view(1, 2, 1, 1)
    exact = maps.double().numpy()
    std = np.sqrt(exact.var((0, 2, 3)) + 0.5)
    of_means = (np.array([1.0, -3.0]) - exact.mean((0, 2, 3))) / std
    of_stds = np.log(np.array([2.0, 1.0]) / std)
    expected = [np.sqrt((values**2).mean()) for values in (of_means, of_stds)]
    np.testing.assert_allclose(distance(layer, moments_of(maps)), expected, rtol=1e-12)


def test_a_channel_without_spread_has_a_finite_distance():
    layer = build_norm("BN", 2)
    assert torch.isfinite(distance(layer, moments_of(torch.zeros(4, 2, 3, 3)))).all()


@pytest.mark.parametrize("norm", ["BN", "SN", "BRN", "CN", "TBBN", "AdaB2N"])
def test_a_layer_that_holds_the_statistics_of_the_data_has_distance_0(norm):
    """CN's are those of the grouped maps, BRN's a standard deviation with eps in it."""
    diagnosis, network = diagnosis_of(norm), small_network(norm)
    layer, images = network[1], prepare(diagnosis.stream.images)
    with torch.no_grad():
        maps = network[0](images).double()
        if norm == "CN":
            maps = torch.group_norm(maps, 2, None, None, layer.eps)
        layer.running_mean.copy_(maps.mean((0, 2, 3)))
        variance = maps.var((0, 2, 3), correction=0)
        if norm == "BRN":
            layer.running_std.copy_(variance.sqrt() + layer.eps)
        else:
            layer.running_var.copy_(variance)
    of_means, of_stds = diagnosis.distances(network, 1)["1"]
    assert max(of_means, of_stds) < 1e-5
    assert min(diagnosis.distances(network, 0)["1"]) > 0.05  # the data of the first task alone are others


def test_distance_that_is_not_finite_is_none():
    network = small_network("BN")
    network[1].running_var.fill_(float("inf"))
    of_means, of_stds = diagnosis_of("BN").distances(network, 1)["1"]
    assert of_means > 0
    assert of_stds is None


@pytest.mark.parametrize("norm", ["BN", "SN", "CN"])
def test_nothing_of_watching_stays(norm):
    network = small_network(norm)
    images = torch.randn(3, 3, 8, 8)
    with evaluating(network):
        before = network(images)
        with watching({"1": network[1]}) as moments:
            assert torch.equal(network(images), before)
        mean = moments["1"].mean_and_variance()[0]
        assert torch.equal(network(2 * images), small_network(norm).eval()(2 * images))
    assert torch.equal(moments["1"].mean_and_variance()[0], mean)
    assert "normalize_running" not in vars(network[1])


# -- re-tuning ---------------------------------------------------------------------------------------------------------


def test_only_the_norm_layers_learn():
    network = small_network("BN")
    before = copy.deepcopy(network.state_dict())
    batches = [SimpleNamespace(images=torch.randn(8, 3, 8, 8), labels=torch.arange(8) % 4) for _ in range(3)]
    for _ in train_alone(network, [network[1]], iter(batches), partial(torch.optim.SGD, lr=0.1), network):
        assert network[0].weight.grad is None
        assert network[4].weight.grad is None
        assert [module.training for module in network] == [False, True, False, False, False]
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {f"1.{name}" for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")}
    assert not network[1].training


def test_steps_are_those_of_gradient_descent_at_a_tenth_of_the_learning_rate():
    diagnosis, network = diagnosis_of("BN", retune_norms=1, debug_mode=1, lr=0.5), small_network("BN")
    expected = copy.deepcopy(network).eval()
    expected[1].train()
    batch = next(diagnosis.loader(1).batches(0))
    loss = nn.functional.cross_entropy(expected(batch.images), batch.labels)
    gradient = torch.autograd.grad(loss, expected[1].weight)[0]
    diagnosis.retune(network, 1)
    torch.testing.assert_close(network[1].weight, expected[1].weight - 0.05 * gradient)
    assert torch.equal(network[1].running_mean, expected[1].running_mean)


def test_loss_is_of_what_the_method_takes_a_cross_entropy_of():
    found = []
    for factor in (1.0, 3.0):
        diagnosis = diagnosis_of("BN", logits=lambda network, images, factor=factor: factor * network(images))
        network = small_network("BN")
        diagnosis.retune(network, 1)
        found.append(network[1].weight.detach())
    assert not torch.allclose(*found)


def test_epochs_over_all_tasks_seen_are_shown_and_can_be_stopped():
    seen = []
    diagnosis = diagnosis_of("BN", check=lambda: seen.append(1))
    diagnosis.retune(small_network("BN"), 1)
    assert diagnosis.sinks.told == {"stage_step": 10, "stage_total": 10}  # 2 epochs of 40 images in batches of 8
    assert len(seen) == 10
    labels = torch.cat([batch.labels for batch in diagnosis.loader(1).batches(0)])
    assert labels.bincount().tolist() == [10, 10, 10, 10]
    assert {int(label) for batch in diagnosis.loader(0).batches(0) for label in batch.labels} == {0, 1}


@pytest.mark.parametrize("norm", NORMS.names())
def test_the_network_of_the_run_stays_as_it_is(norm):
    network = small_network(norm, affine=True)
    before = copy.deepcopy(network.state_dict())
    distances, retuned = diagnosis_of(norm).measure(network, 1)
    assert same_state(before, network.state_dict())
    assert network.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in network.parameters())
    assert not same_state(before, retuned.state_dict())
    assert list(distances) == (["1"] if hasattr(network[1], "running_mean") else [])


def test_running_statistics_alone_can_be_retuned():
    network = small_network("BN", affine=False)
    _, retuned = diagnosis_of("BN").measure(network, 1)
    assert not torch.equal(retuned[1].running_mean, network[1].running_mean)


@pytest.mark.parametrize("norm", ["LN", "IN", "GN"])
def test_layers_without_parameters_and_statistics_have_nothing_to_retune(norm):
    diagnosis = diagnosis_of(norm)
    assert diagnosis.measure(small_network(norm, affine=False), 1) == ({}, None)
    assert diagnosis.sinks.said == [f"  {norm} has nothing to re-tune: no parameters, and no running statistics"]


def test_too_large_a_batch_is_named():
    diagnosis = diagnosis_of("BN")
    diagnosis.stream.images = diagnosis.stream.images[:5]
    diagnosis.stream.labels = diagnosis.stream.labels[:5]
    with pytest.raises(UserError, match="5 images for the 8 rows of a batch: give a smaller --batch_size"):
        diagnosis.loader(0)


def test_results_are_matrices_with_what_was_not_measured_left_out():
    norms = {}
    add_diagnosis(norms, 3, 0, {"a": [0.1, 0.2]}, [Counts(1, 2, 4)])
    add_diagnosis(norms, 3, 1, {"a": [0.3, None]}, [Counts(2, 3, 4), Counts(0, 1, 4)])
    assert norms["distances"] == {"a": {"mean": [0.1, 0.3, None], "std": [0.2, None, None]}}
    assert norms["retuned"]["class_il"] == [[1, None, None], [2, 0, None], [None, None, None]]
    assert norms["retuned"]["task_il"][1] == [3, 1, None]
    assert norms["retuned"]["total"][1] == [4, 4, None]
    nothing = {}
    add_diagnosis(nothing, 3, 0, {}, None)
    assert nothing == {"retuned": None, "distances": {}}


# -- whole runs --------------------------------------------------------------------------------------------------------


@pytest.fixture
def start(small_root, tmp_path):
    """Starts a small run; gives the exit code."""

    def run(results, norm="BN", model="ft", **options):
        values = {"model": model, "dataset": "seq-arrays", "nl": norm, "n_tasks": 3, "backbone": "resnet18", "nf": 4}
        values |= {"epochs": 1, "batch_size": 8, "buffer_size": 20, "lr": 0.05, "data_root": small_root}
        values |= {"results_dir": tmp_path / results, "threads": 1, "device": "cpu", "wandb_mode": "disabled"}
        values |= options
        return main([word for name, value in values.items() if value is not None for word in (f"--{name}", str(value))])

    return run


def record_of(results):
    (path,) = results.rglob("result.json")
    result = json.loads(path.read_text())
    kept = {name: result.get(name) for name in ("counts", "anytime", "weights_sha256", "steps", "norms")}
    return kept, (path.parent / "metrics.jsonl").read_text()


def test_a_run_ends_as_it_would_without_being_measured(start, tmp_path):
    for results, epochs in (("without", 0), ("measured", 2)):
        assert start(results, "TBBN", retune_norms=epochs, optim_mom=0.9) == 0
    (without, _), (measured, lines) = (record_of(tmp_path / results) for results in ("without", "measured"))
    norms, nothing = measured.pop("norms"), without.pop("norms")
    assert nothing is None
    assert measured == without
    assert norms["retuned"]["total"] == measured["counts"]["total"]
    assert norms["retuned"]["class_il"] != measured["counts"]["class_il"]
    assert len(norms["distances"]) == 10  # of the stem, four blocks and a shortcut
    assert all(value > 0 for layer in norms["distances"].values() for values in layer.values() for value in values)
    kinds = [json.loads(line)["kind"] for line in lines.splitlines()]
    assert [kind for kind in kinds if kind in ("evaluation", "retuned")] == ["evaluation", "retuned"] * 3


def test_joint_training_is_measured_at_its_end(start, tmp_path):
    assert start("joint", model="joint", buffer_size=None, retune_norms=1) == 0
    norms = record_of(tmp_path / "joint")[0]["norms"]
    assert norms["retuned"]["total"] == [[None] * 3, [None] * 3, [16] * 3]
    assert {tuple(value is None for value in layer["mean"]) for layer in norms["distances"].values()} == {
        (True, True, False)
    }


@pytest.mark.parametrize("call", [2, 9])
def test_stopped_while_it_is_measured_it_ends_as_if_it_had_not_been(start, tmp_path, monkeypatch, call):
    """In the second task, while distances are taken and while the norm layers are re-tuned."""
    assert start("whole", retune_norms=1) == 0
    calls, original = iter(range(1, 1000)), NormDiagnosis.measure

    def measure(self, network, task):
        def check():
            if task == 1 and next(calls) == call:
                os.kill(os.getpid(), signal.SIGTERM)
            self.check()

        return original(replace(self, check=check), network, task)

    with monkeypatch.context() as patch:
        patch.setattr(NormDiagnosis, "measure", measure)
        assert start("stopped", retune_norms=1) == 143
    assert start("stopped", retune_norms=1) == 0
    assert record_of(tmp_path / "stopped") == record_of(tmp_path / "whole")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "icarl"}, "--model icarl"),
        (
            {"model": "er", "batch_size": 64, "protocol": "online"},
            "on full batches: there are 40 images for the 64",
        ),
        ({"retune_norms": -1}, "--retune_norms"),
    ],
)
def test_mistakes_are_named_before_training(start, tmp_path, capsys, options, message):
    assert start("results", **{"retune_norms": 1, **options}) == 2
    assert message in capsys.readouterr().err
