from types import SimpleNamespace

import pytest
import torch

from models.heads import Outputs, ProxyHead
from models.lucir import cosine_distance
from models.podnet import nca, pod
from tests.golden import cases
from tests.models.rig import FixedNetwork, assert_gradient, assert_matches, leaf, make_offline, observe, stages_of
from utils.config.configuration import configure
from utils.data.plan import Pairs, Plain, Rows
from utils.data.pools import TensorPool
from utils.errors import UserError

CASES = cases("losses/podnet.npz")
PUBLISHED = {"podnet_lambda_f": 1.0, "podnet_lambda_c": 3.0, "second_epochs": 20, "second_lr": 0.05}


def named(prefix):
    return [name for name in CASES if name.startswith(prefix)]


def maps_of(case, which):
    return [leaf(case[f"in_{which}_maps.{index}"]) for index in range(4)]


class Proxies(FixedNetwork):
    """Recorded features and maps under a proxy head with recorded proxies."""

    def __init__(self, features, maps, weights, num_classes, eta=1.0):
        super().__init__(None, features, maps)
        self.head = ProxyHead(features.shape[1], len(weights) // num_classes).double()
        for part in weights.split(len(weights) // num_classes * 10) if num_classes % 10 == 0 else [weights]:
            self.head.grow(len(part) * num_classes // len(weights), part)
        self.head.eta = torch.nn.Parameter(torch.tensor([eta], dtype=torch.float64))
        self.backbone = torch.nn.Linear(1, 1).double()

    def outputs(self, images, maps=False):
        return Outputs(self.head(self.fixed.features), self.fixed.features, self.fixed.maps)


def recorded_network(case):
    features, maps = leaf(case["in_new_features"]), maps_of(case, "new")
    num_seen = case["params"]["n_classes_including_new"]
    return Proxies(features, maps, torch.tensor(case["in_weights"]), num_seen, float(case["in_scale"]))


def step(method, labels):
    """The losses of one step that moves nothing; only the scale's gradient is limited, which is small."""
    method.optimizer = torch.optim.SGD([method.network.head.eta], lr=0.0)
    return observe(method, labels)


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("name", named("nca_"))
def test_classification_loss_is_the_published_one(name):
    case = CASES[name]
    params = case["params"]
    form = "published" if params.get("exclude_pos_denominator", True) else "softmax"
    similarities, scale = leaf(case["in_similarities"]), leaf(case["in_scale"])
    loss = nca(scale * similarities, torch.tensor(case["in_labels"]), form)
    loss.backward()
    assert_matches(loss, case["out_loss"])
    assert_gradient(similarities, case["grad_similarities"])
    assert_gradient(scale, case["grad_scale"])


@pytest.mark.parametrize("distance", [0.0, 9.0, 99.0])
def test_no_row_has_a_loss_that_a_hinge_at_0_would_cut_off(distance):
    scores = torch.tensor([[distance, 0.0]])
    assert nca(scores, torch.tensor([0])) >= 0
    assert nca(scores, torch.tensor([1])) >= 0


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("name", [*named("pod_spatial"), "pod_width", "pod_height", "pod_gap", "pod_channels"])
def test_distance_of_maps_is_the_published_one(name):
    case = CASES[name]
    params = case["params"]
    maps, taught = maps_of(case, "new"), maps_of(case, "old")
    weights = torch.tensor(case["in_memory_flags"]).double() if params.get("only_old") else None
    loss = pod(maps, taught, params.get("collapse_channels", "spatial"), params.get("normalize", True), weights)
    loss.backward()
    assert_matches(loss, case["out_loss"])
    for index, each in enumerate(maps):
        assert_gradient(each, case[f"grad_new_maps.{index}"])


def test_distance_of_maps_is_zero_without_rows_to_compare():
    maps = [leaf(CASES["pod_spatial"]["in_new_maps.0"])]
    loss = pod(maps, [torch.zeros_like(maps[0])], weights=torch.zeros(4).double())
    loss.backward()
    assert loss == 0
    assert maps[0].grad.abs().max() == 0


def test_maps_as_they_were_have_no_gradient_that_is_not_finite():
    maps = leaf(CASES["pod_spatial"]["in_new_maps.0"])
    pod([maps], [maps.detach()]).backward()
    assert maps.grad.abs().max() == 0


@pytest.mark.usefixtures("device")
def test_distance_of_features_is_the_published_one():
    case = CASES["pod_flat"]
    features = leaf(case["in_new_features"])
    loss = cosine_distance(features, torch.tensor(case["in_old_features"])).mean()
    loss.backward()
    assert_matches(loss, case["out_loss"])
    assert_gradient(features, case["grad_new_features"])


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("name", named("objective_"))
def test_losses_and_gradients_are_the_published_ones(name):
    case = CASES[name]
    params = case["params"]
    network = recorded_network(case)
    teacher = FixedNetwork(None, torch.tensor(case["in_old_features"]), maps_of(case, "old"))
    task = params["n_classes_including_new"] // params["task_size"] - 1
    weights = {"podnet_lambda_f": params["flat_factor"], "podnet_lambda_c": params["spatial_factor"]}
    method = make_offline("podnet", task, params["task_size"], network, teacher, **PUBLISHED | weights)
    losses = step(method, case["in_labels"])
    terms = {"loss": "loss", "nca": "term_nca", "flat": "term_flat", "pod": "term_spatial"}
    for ours, recorded in terms.items():
        if ours in losses:
            assert_matches(losses[ours], case[f"out_{recorded}"])
        else:
            assert case[f"out_{recorded}"] == 0
    gradients = torch.cat([part.weight.grad for part in network.head.parts])
    assert_matches(gradients, case["grad_weights"])
    assert_gradient(network.fixed.features, case["grad_new_features"])
    assert_matches(network.head.eta.grad, case["grad_scale"].reshape(1))
    for index, each in enumerate(network.fixed.maps):
        assert_gradient(each, case[f"grad_new_maps.{index}"])


def test_maps_of_old_classes_only_on_request():
    case = CASES["objective_cifar"]
    network, labels = recorded_network(case), case["in_labels"]
    teacher = FixedNetwork(None, torch.tensor(case["in_old_features"]), maps_of(case, "old"))
    method = make_offline("podnet", 1, 10, network, teacher, **PUBLISHED, podnet_rows="old")
    losses = step(method, labels)
    is_old = torch.tensor(labels < 10)
    assert 0 < is_old.sum() < len(labels)
    rows = pod([each[is_old] for each in network.fixed.maps], [each[is_old] for each in teacher.fixed.maps])
    assert_matches(losses["pod"], (3 * 2**0.5 * rows).detach().numpy())


# -- stages ------------------------------------------------------------------------------------------------------------


def small(task, **options):
    weights = torch.randn(4 * 3, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    network = Proxies(torch.zeros(1, 8, dtype=torch.float64), [], weights[:6], 2)
    for _ in range(task):
        network.head.grow(2)
    return make_offline("podnet", task, 2, network, None, lr=0.1, **PUBLISHED | {"epochs": 4} | options)


def test_learning_rate_follows_a_cosine_an_epoch_late():
    (main,) = stages_of(small(0), 0)
    assert [main.lr_at(epoch) for epoch in range(4)] == pytest.approx([0.1, 0.1, 0.0853553391, 0.05])


def test_second_stage_is_on_exemplars_alone_at_its_own_learning_rate():
    main, second = stages_of(small(1), 1)
    assert main.data == Pairs(Rows((1,)), Rows(exemplars=1), 3, "replay")
    assert second.data == Plain(Rows(exemplars=1), drop_last=False)
    assert (second.epochs, [second.lr_at(epoch) for epoch in (0, 19)]) == (20, [0.05, 0.05])


def test_batches_of_the_original_program_are_shuffled_unions():
    assert stages_of(small(1, batching="union"), 1)[0].data == Plain(Rows((1,), exemplars=1))


class Memory:
    """Holds the classes of an earlier task until it is updated."""

    def __init__(self, num_classes):
        self.num_classes = num_classes
        self.num_updates = 0

    def holds(self, label):
        return label < self.num_classes

    def update(self, features, pool, num_seen):
        self.num_classes = num_seen
        self.num_updates += 1


def names_of(method, parameters):
    known = {id(value): name for name, value in method.network.named_parameters()}
    return {known[id(parameter)] for parameter in parameters}


def test_each_stage_trains_its_own_part():
    method = small(1)
    method.memory = Memory(2)
    method.stream.pool = lambda tasks: None
    backbone = {"backbone.weight", "backbone.bias"}
    expected = [backbone | {"head.eta", "head.parts.1.weight"}, {"head.parts.0.weight", "head.parts.1.weight"}]
    for stage, names in zip(stages_of(method, 1), expected, strict=True):
        method.begin_stage(stage)
        assert names_of(method, method.optimizer.param_groups[0]["params"]) == names
        learning = (each for each in method.network.parameters() if each.requires_grad)
        assert names_of(method, learning) == names
        assert method.network.training


@pytest.mark.parametrize(("stage", "num_asked"), [(0, 1), (1, 0)])
def test_the_teacher_is_asked_only_where_the_backbone_learns(stage, num_asked, monkeypatch):
    method = small(1)
    method.memory = Memory(4)
    method.begin_stage(stages_of(method, 1)[stage])
    asked = []
    outputs = SimpleNamespace(scores=torch.zeros(2, 4, dtype=torch.float64), features=None, maps=None)
    monkeypatch.setattr(method, "forward", lambda batch: outputs)
    monkeypatch.setattr(method, "teach", asked.append)
    monkeypatch.setattr(method, "distill", lambda outputs, taught, labels: {"distilled": torch.zeros(())})
    losses = method.losses(SimpleNamespace(images=None, labels=torch.tensor([0, 3])))
    assert (len(asked), "distilled" in losses) == (num_asked, bool(num_asked))


def test_second_stage_waits_for_exemplars_of_the_new_classes_and_chooses_them_once():
    method = small(1)
    method.memory = Memory(2)
    method.stream.pool = lambda tasks: tasks
    main, second = stages_of(method, 1)
    method.begin_stage(main)
    assert method.memory.num_updates == 0
    for _ in range(2):  # it begins again when a run goes on
        method.begin_stage(second)
        assert method.memory.num_updates == 1
    assert method.memory.num_classes == 4


def test_every_gradient_entry_is_limited():
    method = small(0)
    method.begin_stage(stages_of(method, 0)[0])
    weight = method.network.backbone.weight
    weight.grad = torch.full_like(weight, -70.0)
    method.network.head.eta.grad = torch.tensor([4.0], dtype=torch.float64)
    method.clip_gradients()
    assert weight.grad.item() == -5
    assert method.network.head.eta.grad.item() == 4


# -- imprinting --------------------------------------------------------------------------------------------------------


def test_new_proxies_are_centres_of_features_as_long_as_the_old_proxies():
    """Three groups of images per class, which are recognised by their first pixel."""
    values = torch.tensor([3.0, 40.0, 200.0]).repeat(8)
    images = torch.cat([values, values + 20]).to(torch.uint8).view(-1, 1, 1, 1)
    labels = torch.tensor([2, 3]).repeat_interleave(24)
    method = small(1)
    network, head = method.network, method.network.head

    def outputs(raw):
        assert not network.training
        angles = raw.flatten().double() / 300
        features = torch.zeros(len(raw), 8, dtype=torch.float64)
        features[:, 0], features[:, 1] = 7 * angles.cos(), 7 * angles.sin()  # imprinting divides by the length
        return Outputs(None, features, [])

    network.outputs, method.prepare = outputs, lambda raw: raw
    method.config.seed = 0
    method.stream.pool = lambda tasks: TensorPool(images, labels, torch.ones(48, dtype=torch.int64))
    old = head.parts[0].weight.detach().clone()
    network.train()
    method.imprint()
    assert network.training
    assert torch.equal(head.parts[0].weight, old)
    length = old.norm(dim=1).mean()
    proxies = head.parts[1].weight.detach()
    assert proxies.requires_grad is False
    torch.testing.assert_close(proxies.norm(dim=1), length.expand(6))
    angles = torch.atan2(proxies[:, 1], proxies[:, 0]).view(2, 3).sort(dim=1).values * 300
    torch.testing.assert_close(angles, torch.tensor([[3.0, 40, 200], [23, 60, 220]]).double())


def test_proxies_are_imprinted_from_the_second_task_on(monkeypatch):
    method, calls = small(0), []
    method.config.seed = 0
    monkeypatch.setattr(method, "imprint", lambda: calls.append(method.network.head.num_classes))
    method.begin_task(0)
    method.begin_task(1)
    assert calls == [6]


def test_restoring_a_state_does_not_imprint_again():
    method, resumed = small(1), small(0)
    method.optimizer, method.config.seed, resumed.config.seed = None, 0, 0
    resumed.stream.task_of_class = torch.arange(20) // 2
    resumed.load_state_dict(method.state_dict())
    for ours, theirs in zip(resumed.network.head.parts, method.network.head.parts, strict=True):
        assert torch.equal(ours.weight, theirs.weight)


# -- options -----------------------------------------------------------------------------------------------------------


def test_published_settings():
    cifar = configure(["--model", "podnet", "--dataset", "seq-cifar100"])
    expected = {"backbone": "podnet_resnet32", "epochs": 160, "lr": 0.1, "optim_mom": 0.9, "optim_wd": 5e-4}
    expected |= {"batch_size": 128, "second_epochs": 20, "second_lr": 0.05, "buffer_size": 2000, "val_fraction": 0.0}
    expected |= {"best_epoch": "last", "exemplar_selection": "icarl", "reherd": False, "quota": "floor"}
    expected |= {"podnet_lambda_f": 1.0, "podnet_lambda_c": 3.0, "ratio_cycle": "reshuffle"}
    assert {name: cifar.values[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("words", "expected"), [("--epochs 80", 10), ("--epochs 3", 1), ("--epochs 80 --second_epochs 7", 7)]
)
def test_second_stage_follows_the_epochs_in_proportion_unless_typed(words, expected):
    assert configure(["--model", "podnet", "--dataset", "seq-cifar100", *words.split()]).second_epochs == expected


def test_published_settings_of_other_data_leave_epochs_and_batches_to_these():
    digits = configure(["--model", "podnet", "--dataset", "seq-digits"])
    expected = {"epochs": 10, "batch_size": 64, "second_epochs": 1, "optim_mom": 0.9, "quota": "floor"}
    assert {name: digits.values[name] for name in expected} == expected
    assert digits.origins["epochs"] == "dataset seq-digits"
    assert digits.origins["second_epochs"].endswith("20 after 160 epochs, in proportion")


def test_logits_are_scaled_as_in_the_loss():
    method = small(1)
    method.network.head.eta.data.fill_(3.0)
    method.network.forward = lambda images: images
    images = torch.rand(2, 4, dtype=torch.float64)
    torch.testing.assert_close(method.logits(method.network, images), 3 * images)


@pytest.mark.parametrize("words", ["--podnet_pooling gap", "--podnet_normalize 0", "--podnet_rows old"])
def test_options_of_maps_that_are_not_distilled_are_refused(words):
    line = f"--model podnet --dataset seq-cifar100 {words}"
    configure(line.split())
    with pytest.raises(UserError, match=f"{words.split()[0]} changes nothing .* --podnet_lambda_c above 0"):
        configure([*line.split(), "--podnet_lambda_c", "0"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "--milestones 3 --lr_decay 0.1",
            "--milestones changes nothing in this run: --lr_schedule epoch_cosine has no milestones",
        ),
        ("--milestones 3", "--milestones changes nothing in this run: --lr_schedule epoch_cosine has no milestones"),
        ("--lr_decay 0.1", "--lr_decay changes nothing in this run: --lr_schedule epoch_cosine has no milestones"),
        ("--protocol online", "head"),
    ],
)
def test_mistakes_are_found_before_training(words, message):
    with pytest.raises(UserError, match=message):
        configure(["--model", "podnet", "--dataset", "seq-digits", *words.split()])


# -- forms of the classifier that no published setting uses ------------------------------------------------------------


@pytest.mark.parametrize("name", named("classifier_lsc"))
def test_distances_to_single_proxies_give_every_form_of_the_classifier(name):
    """Scaling stretches the unit vectors; the proxies of a class are merged by a softmax or by the highest."""
    case = CASES[name]
    params = case["params"]
    head = ProxyHead(8, num_proxies=1).double()
    head.grow(len(case["in_weights"]), torch.tensor(case["in_weights"]))
    features = leaf(case["in_x"])
    distances = params["scaling"] ** 2 * head(features)
    assert_matches(distances, case["out_raw"])
    grouped = distances.unflatten(1, (-1, params["proxies"]))
    merged = {"softmax": (grouped.softmax(2) * grouped).sum(2), "max": grouped.amax(2)}[params["merging"]]
    assert_matches(merged, case["out_logits"])
    (merged * torch.tensor(case["in_upstream"])).sum().backward()
    assert_gradient(features, case["grad_x"])
    assert_matches(head.parts[0].weight.grad, case["grad_weights"])


def test_distillation_weighs_by_the_classes_of_unequal_tasks():
    method = make_offline("podnet", 1, 2, FixedNetwork(torch.zeros(1, 8)), None)
    method.stream = SimpleNamespace(classes_of_task=[range(6), range(6, 8)].__getitem__)
    assert method.multiplier == pytest.approx((8 / 2) ** 0.5)
