import re
from contextlib import nullcontext
from itertools import count

import numpy as np
import pytest
import torch

from backbone.norm import build_norm, norm_factory
from models.base import ReplayMethod, Stage
from models.heads import HEADS, Network
from tests.models.rig import leaf, make, rows
from utils.config.registry import BACKBONES, METHODS, NORMS
from utils.data.plan import CountedStage, TaskStream
from utils.errors import UserError
from utils.main import main

ZEROS = torch.zeros(6, 10, dtype=torch.float64).numpy()
REPLAY = [name for name in METHODS.names() if issubclass(METHODS.get(name), ReplayMethod)]


def draws(number):
    extras = {"logits": ZEROS[:5]}
    return [rows(leaf(ZEROS[:5]), task=0, **extras) for _ in range(number)]


class Normed(torch.nn.Module):
    """Logits as maps of one pixel each, through one norm layer."""

    def __init__(self, norm, keeps_rows_apart=True, **options):
        super().__init__()
        self.keeps_rows_apart = keeps_rows_apart
        self.norm = build_norm(norm, 10, spatial_size=1, **options).double()
        self.sizes = []

    def autocast(self):
        return nullcontext()

    def forward(self, images):
        self.sizes.append(len(images))
        return self.norm(images[:, :, None, None] + torch.randn(len(images), 10, 1, 1, dtype=torch.float64))[..., 0, 0]


def observed(method_name, forward, norm, **options):
    """A method after one step in its second task, with as many draws as it takes."""
    method = make(method_name, draws(2), forward=forward, alpha=0.5, beta=0.5, lambd=0.1, ada_t0=0)
    method.network = Normed(norm, **options)
    method.regularized = bool(NORMS.get(norm).regularizer_options)
    method.begin_stage(method.stage(method.config, (1,)))
    method.begin_task(1)
    losses = method.observe(rows(leaf(ZEROS), torch.full((6,), 2).numpy(), task=1))
    return method, losses


@pytest.mark.parametrize(
    ("method", "parts"), [("er", [6, 5]), ("er_ace", [6, 5]), ("der", [6, 5]), ("derpp", [6, 5, 5])]
)
@pytest.mark.parametrize("keeps_rows_apart", [True, False])
def test_separate_parts_in_their_order_move_running_statistics_each(method, parts, keeps_rows_apart):
    trained, _ = observed(method, "separate", "BN", keeps_rows_apart=keeps_rows_apart)
    assert trained.network.sizes == ([sum(parts)] if keeps_rows_apart else parts)
    assert trained.network.norm.num_batches_tracked == len(parts)


def test_parts_take_one_forward_only_where_nothing_unknown_lets_rows_depend_on_each_other():
    """What else there is may let rows depend on each other, such as a layer of batch normalization of PyTorch's."""

    class Mine(BACKBONES.get("resnet18")):
        pass

    class Shifted(NORMS.get("BN")):
        def forward(self, x):
            return super().forward(x - x.mean())

    norms = norm_factory("BN"), lambda num_features, spatial_size: Shifted(num_features)
    kinds = [(BACKBONES.get("resnet18"), norms[0]), (Mine, norms[0]), (BACKBONES.get("resnet18"), norms[1])]
    networks = [Network(backbone(norm, image_size=16, nf=4), HEADS["linear"](32, 10)) for backbone, norm in kinds]
    assert [network.keeps_rows_apart for network in networks] == [True, False, False]


@pytest.mark.parametrize(("method", "size"), [("er", 11), ("er_ace", 11), ("der", 11), ("derpp", 16)])
@pytest.mark.parametrize("norm", ["BN", "TBBN", "AdaB2N"])
def test_joint_parts_move_running_statistics_once(method, size, norm):
    options = {"num_tasks": 5} if norm == "AdaB2N" else {}
    trained, losses = observed(method, "joint", norm, **options)
    assert trained.network.sizes == [size]
    assert trained.network.norm.num_batches_tracked == 1
    assert ("norm_loss" in losses) == (norm == "AdaB2N")


def test_regularizer_enters_the_loss_with_its_weight():
    trained, losses = observed("er", "joint", "AdaB2N", num_tasks=5)
    plain = losses["loss"] - trained.config.lambd * losses["norm_loss"]
    torch.manual_seed(0)
    assert losses["norm_loss"] > 0
    assert plain < losses["loss"]
    assert trained.network.norm.task_weight.grad is not None


def test_regularizer_waits_for_its_first_task():
    method = make("er", draws(1), forward="joint", lambd=0.1, ada_t0=2)
    method.network, method.regularized = Normed("AdaB2N", num_tasks=5), True
    method.begin_stage(method.stage(method.config, (1,)))
    method.begin_task(1)
    assert "norm_loss" not in method.observe(rows(leaf(ZEROS), task=1))


def test_batch_without_memory_rows_is_not_described():
    method = make("er", [], forward="joint", lambd=0.1, ada_t0=0)
    method.network, method.regularized = Normed("AdaB2N", num_tasks=5), True
    method.begin_stage(method.stage(method.config, (0,)))
    method.begin_task(3)
    losses = method.observe(rows(leaf(ZEROS), task=3))
    assert "norm_loss" not in losses
    assert method.network.norm.task_weight.grad is None


@pytest.mark.parametrize("method", REPLAY)
@pytest.mark.parametrize("norm", ["TBBN", "AdaB2N"])
def test_balancing_layers_refuse_separate_parts(method, norm):
    with pytest.raises(UserError, match="--forward separate"):
        METHODS.get(method).resolve_auto({"forward": "separate"}, NORMS.get(norm))


def test_task_weights_are_never_decayed():
    method = make("sgd", optim_wd=0.1, lr=1.0)
    method.network = Normed("AdaB2N", num_tasks=5)
    with torch.no_grad():
        method.network.norm.task_weight.fill_(1.0)
    method.begin_stage(method.stage(method.config, (0,)))
    for parameter in method.network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    method.optimizer.step()
    assert method.network.norm.task_weight.tolist() == [1.0] * 5
    assert torch.allclose(method.network.norm.weight, torch.full((10,), 0.9, dtype=torch.float64))


@pytest.mark.parametrize("decay_norms", [True, False])
def test_norm_layers_are_decayed_if_they_are_to_be_and_what_is_beside_them_always(decay_norms):
    method = make("sgd", optim_wd=0.1, lr=1.0, decay_norms=decay_norms)
    method.network = Normed("FRN", tlu=True)
    method.network.other = torch.nn.Linear(2, 2)
    with torch.no_grad():
        for parameter in method.network.parameters():
            parameter.fill_(1.0)
    method.begin_stage(method.stage(method.config, (0,)))
    for parameter in method.network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    method.optimizer.step()
    layer, other = method.network.norm, method.network.other
    left = 0.9 if decay_norms else 1.0
    for parameter in (layer.weight, layer.bias, layer.tau):
        assert parameter.tolist() == pytest.approx([left] * 10)
    assert other.bias.tolist() == pytest.approx([0.9, 0.9])


def test_learning_rate_falls_at_the_milestones():
    stage = Stage(TaskStream((0,)), epochs=5, lr=1.0, milestones=(2, 4), lr_decay=0.1)
    assert [stage.lr_at(epoch) for epoch in range(5)] == pytest.approx([1.0, 1.0, 0.1, 0.1, 0.01])


def test_learning_rate_falls_on_half_a_cosine_over_the_steps_of_a_stage():
    stage = Stage(TaskStream((0,)), epochs=2, lr=1.0, schedule="cosine", milestones=(1,), lr_decay=0.1)
    found = [stage.lr_at(epoch, share) for epoch in range(2) for share in (0, 0.5)]
    assert found == pytest.approx([1.0, 0.5 + 0.5**0.5 / 2, 0.5, 0.5 - 0.5**0.5 / 2])


def test_learning_rate_of_an_epoch_reaches_every_group():
    method = make("sgd", lr=1.0, milestones=(1,), lr_decay=0.5)
    stage = method.stage(method.config, (0,))
    method.begin_epoch(stage, 1)
    assert {group["lr"].item() for group in method.optimizer.param_groups} == {0.5}


@pytest.mark.parametrize("method", REPLAY)
def test_every_current_row_is_offered_to_memory_after_the_step(method):
    trained, _ = observed(method, "separate", "BN")
    (inserted,) = trained.memory.inserted
    assert len(inserted["raw"]) == 6
    assert inserted["tasks"].tolist() == [1] * 6


# -- before training ---------------------------------------------------------------------------------------------------


_NUMBERS = count()


@pytest.fixture
def start(tmp_path, capsys):
    """Runs the suite on 2 tasks of 17 images of 8 pixels, whose last maps have one; gives exit code and error."""
    for split in ("train", "test"):
        labels = np.repeat(np.arange(4), (8, 9, 8, 9))
        images = np.random.default_rng(0).integers(0, 256, (len(labels), 8, 8, 3), dtype=np.uint8)
        np.save(tmp_path / f"{split}_x.npy", images)
        np.save(tmp_path / f"{split}_y.npy", labels)

    def run(words, plugin=None):
        places = ["--data_root", str(tmp_path), "--results_dir", str(tmp_path / "results"), "--nowand", "1"]
        if plugin:
            name = f"mine{next(_NUMBERS)}"  # a name can be taken once
            words, plugin = words.replace("mine", name), plugin.replace('"mine"', f'"{name}"')
            (tmp_path / "mine.py").write_text(plugin, encoding="utf-8")
            places += ["--plugin", str(tmp_path / "mine.py")]
        common = "--dataset seq-arrays --n_tasks 2 --backbone resnet18 --nf 2 --lr 0.01 --epochs 1 --threads 1"
        code = main([*common.split(), *words.split(), *places])
        return code, re.sub(r"mine\d+", "mine", capsys.readouterr().err)

    yield run
    for name in [name for name in METHODS._parts if name.startswith("mine")]:
        del METHODS._parts[name]


@pytest.mark.parametrize(
    ("words", "place"),
    [
        ("--model sgd --nl BN --batch_size 1", "task 1: a batch of 1 puts 1 through"),
        ("--model sgd --nl BN --batch_size 16", "task 1: a batch of 1 puts 1 through"),
        ("--model sgd --nl CN --num_groups 1 --batch_size 16", "task 1: a batch of 1 puts 1 through"),
        ("--model er_ace --buffer_size 20 --nl TBBN --batch_size 16", "task 1: a batch of 1 puts 1 through"),
        ("--model er --buffer_size 20 --nl BN --forward separate --minibatch_size 1", "give another --minibatch_size"),
    ],
)
def test_a_batch_of_too_few_rows_is_told_before_training(start, words, place):
    code, error = start(f"--class_order identity {words}")
    assert code == 2
    assert place in error
    assert error.count("\n") == 1
    assert start(f"--class_order identity {words} --dry_run") == (2, error)


@pytest.mark.parametrize(
    "words",
    [
        "--model sgd --nl LN --batch_size 16 --debug_mode 1",
        "--model sgd --nl BRN --batch_size 1 --debug_mode 1",
        "--model sgd --nl BN --batch_size 16 --debug_mode 1",  # whose last batches are never reached
    ],
)
def test_a_batch_of_one_row_is_no_mistake_where_it_can_be_trained_on(start, words):
    assert start(f"--class_order identity {words}")[0] == 0


def counted(num_images, batch_size, task=0, epochs=1):
    stage = Stage(TaskStream((task,)), epochs=epochs, lr=1.0)
    last_batch = (num_images - 1) % batch_size + 1
    return CountedStage(stage, task, "here", -(-num_images // batch_size), batch_size, last_batch)


@pytest.mark.parametrize(
    ("name", "options", "stages", "is_refused"),
    [
        ("er", {"forward": "joint"}, [counted(9, 8)], False),  # beside rows of memory
        ("er", {"forward": "joint", "buffer_size": 0}, [counted(9, 8)], True),
        ("er", {"forward": "joint"}, [counted(1, 8)], True),
        ("er", {"forward": "separate"}, [counted(9, 8)], True),
        ("er_ace", {"forward": "joint"}, [counted(9, 8)], True),
        ("er_ace", {"forward": "joint"}, [counted(8, 8), counted(9, 8, task=1)], False),
        ("sgd", {}, [counted(8, 8), counted(9, 8, task=1)], True),
        ("sgd", {}, [counted(10, 8)], False),
    ],
)
@pytest.mark.parametrize(("norm", "is_sensitive"), [("BN", True), ("TBBN", True), ("BRN", False), ("GN", False)])
def test_rows_of_a_step_are_those_of_its_forwards(name, options, stages, is_refused, norm, is_sensitive):
    options = {"buffer_size": 4, "nl": norm, "backbone": "small", "debug_mode": 0, "lambd": 0} | options
    method = make(name, **options)
    method.network = Normed(norm, **({"num_groups": 1} if norm == "GN" else {}))
    with pytest.raises(UserError, match="here: ") if is_refused and is_sensitive else nullcontext():
        method.check_batches([stages])


SILENT = """
from torch import cat
from torch.nn.functional import cross_entropy

from models.base import ReplayMethod
from utils.config.registry import METHODS


@METHODS.register("mine")
class Mine(ReplayMethod):
    def observe(self, batch):
        parts = [batch, *self.replay(1)]
        images, labels = (cat([getattr(part, name) for part in parts]) for name in ("images", "labels"))
        losses = self.update(cross_entropy(CALL, labels))
        self.remember(batch)
        return losses
"""
_REPLAY = "--model mine --buffer_size 20 --batch_size 6 --debug_mode 3"


@pytest.mark.parametrize("norm", ["TBBN", "AdaB2N"])
def test_a_balancing_layer_that_is_never_told_is_an_error_after_the_first_task(start, norm):
    code, error = start(f"{_REPLAY} --nl {norm}", SILENT.replace("CALL", "self.network(images)"))
    assert code == 2
    assert f"--model mine takes rows from memory but never describes them to --nl {norm}" in error


def test_other_layers_need_not_be_told(start):
    assert start(f"{_REPLAY} --nl BN", SILENT.replace("CALL", "self.network(images)"))[0] == 0


def test_a_layer_that_is_told_is_none(start):
    call = "self.described(images, cat([part.tasks for part in parts]), len(batch), self.network)"
    assert start(f"{_REPLAY} --nl TBBN", SILENT.replace("CALL", call))[0] == 0


TOGETHER = "--model mine --buffer_size 20 --nl BN --batch_size 4 --minibatch_size 1 --forward separate"


def test_a_plugin_with_a_forward_of_its_own_is_not_refused_for_those_it_does_not_make(start):
    """In separate forwards, the single row of memory would be too few."""
    assert start(TOGETHER.replace("mine", "er"))[0] == 2
    assert start(TOGETHER, SILENT.replace("CALL", "self.network(images)"))[0] == 0


def test_a_plugin_that_says_its_rows_is_refused_before_training(start):
    says = """
    @classmethod
    def forward_rows(cls, config, task, num_rows, num_remembered):
        return 1
"""
    code, error = start(TOGETHER, SILENT.replace("CALL", "self.network(images)") + says)
    assert code == 2
    assert "puts 1 through the network at once" in error


def test_a_batch_that_is_too_small_for_a_plugin_is_one_line_when_it_comes(start):
    code, error = start(TOGETHER, SILENT.replace("CALL", "cat([self.network(part.images) for part in parts])"))
    assert code == 2
    assert "BN has 1 value per channel" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("def observe(self, batch):\n        self.update(self.network(batch.images).mean())", "`observe` gives None"),
        ("def observe(self, batch):\n        return {'loss': self.network(batch.images).mean()}", "return `.detach()`"),
        ("pass", "class Mine does not define `observe`, which a method needs"),
        ("def observe(self, batch):\n        1\n    stages = None", "--model mine: make it `@classmethod def stages"),
    ],
)
def test_mistakes_of_a_plugin_are_one_line(start, body, message):
    head = "from models.base import Method\nfrom utils.config.registry import METHODS\n"
    code, error = start("--model mine", f'{head}@METHODS.register("mine")\nclass Mine(Method):\n    {body}\n')
    assert code == 2
    assert message in error
    assert error.count("\n") == 1
