import pytest
import torch

from backbone.norm import build_norm
from models.base import ReplayMethod, Stage
from tests.models.rig import leaf, make, rows
from utils.config.registry import METHODS, NORMS
from utils.data.plan import TaskStream
from utils.errors import UserError

ZEROS = torch.zeros(6, 10, dtype=torch.float64).numpy()
REPLAY = [name for name in METHODS.names() if issubclass(METHODS.get(name), ReplayMethod)]


def draws(number):
    extras = {"logits": ZEROS[:5]}
    return [rows(leaf(ZEROS[:5]), task=0, **extras) for _ in range(number)]


class Normed(torch.nn.Module):
    """Logits as maps of one pixel each, through one norm layer."""

    def __init__(self, norm, **options):
        super().__init__()
        self.norm = build_norm(norm, 10, spatial_size=1, **options).double()
        self.sizes = []

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
def test_separate_parts_in_their_order_move_running_statistics_each(method, parts):
    trained, _ = observed(method, "separate", "BN")
    assert trained.network.sizes == parts
    assert trained.network.norm.num_batches_tracked == len(parts)


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
        METHODS.get(method).settled({"forward": "separate"}, NORMS.get(norm))


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


def test_learning_rate_falls_at_the_milestones():
    stage = Stage(TaskStream((0,)), epochs=5, lr=1.0, milestones=(2, 4), lr_decay=0.1)
    assert [stage.lr_at(epoch) for epoch in range(5)] == pytest.approx([1.0, 1.0, 0.1, 0.1, 0.01])


def test_learning_rate_of_an_epoch_reaches_every_group():
    method = make("sgd", lr=1.0, milestones=(1,), lr_decay=0.5)
    stage = method.stage(method.config, (0,))
    method.begin_epoch(stage, 1)
    assert {group["lr"] for group in method.optimizer.param_groups} == {0.5}


@pytest.mark.parametrize("method", REPLAY)
def test_every_current_row_is_offered_to_memory_after_the_step(method):
    trained, _ = observed(method, "separate", "BN")
    (inserted,) = trained.memory.inserted
    assert len(inserted["raw"]) == 6
    assert inserted["tasks"].tolist() == [1] * 6
