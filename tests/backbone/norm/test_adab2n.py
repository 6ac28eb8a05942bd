import gc
import weakref

import pytest
import torch

from backbone.norm import BatchContext, NormError, batch_context, begin_task, build_norm, norm_loss
from backbone.norm.adab2n import step_size
from tests.backbone.norm.rig import context, make, maps, state_of, train_step

MOMENTUM = 0.1


def double(**options):
    return make("AdaB2N", dtype=torch.float64, **options)


def statistics_of(layer, x, described):
    """Mean and variance in force in a forward, from running statistics that take the batch's over (kappa = 0)."""
    begin_task(layer, described.task)
    with batch_context(layer, described):
        layer(x)
    return layer.running_mean, layer.running_var


@pytest.mark.parametrize("kappa", [0, 1e-6, 0.1, 0.4, 0.7, 1])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 3e-6)])
def test_step_size_solves_the_recursion(kappa, dtype, tolerance):
    expected = MOMENTUM**kappa
    for number in range(1, 2001):
        found = step_size(torch.tensor(number - 1), kappa, MOMENTUM, dtype)
        assert found.dtype == dtype
        assert abs(found.item() / expected - 1) < tolerance
        expected = expected / (expected + (1 - MOMENTUM) ** kappa)


@pytest.mark.parametrize("kappa", [0.1, 0.4, 0.7, 1])
def test_step_size_has_a_limit(kappa):
    found = step_size(torch.tensor(10**7), kappa, MOMENTUM, torch.float64).item()
    assert found == pytest.approx(1 - 0.9**kappa, rel=1e-12)


@pytest.mark.parametrize("kappa", [0.0, 1e-50, 1e-29, 0.4, 1.0])
@pytest.mark.parametrize("momentum", [0.0, 0.1, 1.0])
def test_step_sizes_at_the_ends_of_their_ranges(kappa, momentum):
    power = 0.0 if kappa == 1e-50 else kappa
    expected = [momentum**power]
    for _ in range(4):
        expected.append(expected[-1] / (expected[-1] + (1 - momentum) ** power))
    found = step_size(torch.arange(5), kappa, momentum, torch.float32)
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-5, atol=0)


def test_kappa_one_is_the_momentum_of_bn():
    layer = double(kappa=1.0)
    for number in range(1, 4):
        layer(maps(dtype=torch.float64, seed=number))
    mean = torch.zeros(8, dtype=torch.float64)
    for number in range(1, 4):
        mean = 0.9 * mean + 0.1 * maps(dtype=torch.float64, seed=number).mean((0, 2, 3))
    torch.testing.assert_close(layer.running_mean, mean)


def test_running_variance_is_biased_in_the_first_task_too():
    layer, x = double(kappa=1.0), maps(dtype=torch.float64)
    layer(x)
    torch.testing.assert_close(layer.running_var, 0.9 + 0.1 * x.var((0, 2, 3), correction=0))


@pytest.mark.parametrize("described", [None, context(0, 8, 4), BatchContext(2, None, 8)])
def test_equals_bn_without_task_weights(described):
    layer, plain = double(), make("BN", dtype=torch.float64)
    plain.load_state_dict({name: state_of(layer)[name] for name in plain.state_dict()})
    inputs = [maps(dtype=torch.float64).requires_grad_() for _ in range(2)]
    begin_task(layer, 0 if described is None else described.task)
    if described is None:
        y = layer(inputs[0])
    else:
        with batch_context(layer, described):
            y = layer(inputs[0])
    (y**3).sum().backward()
    expected = plain(inputs[1])
    (expected**3).sum().backward()
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad)
    assert layer.task_weight.grad is None  # not even zeros: it is not in use yet


def test_tasks_with_equal_counts_and_weights_count_the_same():
    layer = build_norm("AdaB2N", 8, num_tasks=3, kappa=0).double()
    x = maps(9, dtype=torch.float64)
    tasks = torch.tensor([0, 1, 2] * 3)
    mean, variance = statistics_of(layer, x, BatchContext(2, tasks, 3))
    torch.testing.assert_close(mean, x.mean((0, 2, 3)))
    torch.testing.assert_close(variance, x.var((0, 2, 3), correction=0))


def test_weights_follow_counts_and_task_weights():
    layer = build_norm("AdaB2N", 8, num_tasks=4, kappa=0).double()
    with torch.no_grad():
        layer.task_weight.copy_(torch.tensor([0.5, -1, 0.2, 7]))
    x = maps(6, dtype=torch.float64)
    mean, variance = statistics_of(layer, x, BatchContext(2, torch.tensor([2, 2, 2, 0, 0, 1]), 3))
    counts = torch.tensor([2.0, 1, 3], dtype=torch.float64)
    shares = counts + layer.task_weight[:3].detach().exp()
    weights = (shares / shares.sum() / counts)[torch.tensor([2, 2, 2, 0, 0, 1])].view(-1, 1, 1, 1) / 9
    expected = (weights * x).sum((0, 2, 3))
    torch.testing.assert_close(mean, expected)
    torch.testing.assert_close(variance, (weights * (x - expected.view(1, -1, 1, 1)).square()).sum((0, 2, 3)))


def test_large_weight_of_a_task_draws_the_mean_to_it():
    layer, x = build_norm("AdaB2N", 8, num_tasks=3, kappa=0).double(), maps(dtype=torch.float64)
    with torch.no_grad():
        layer.task_weight[1] = 40
    tasks = torch.tensor([2, 0, 1] * 4)
    mean, variance = statistics_of(layer, x, BatchContext(2, tasks, 4))
    torch.testing.assert_close(mean, x[2::3].mean((0, 2, 3)))
    torch.testing.assert_close(variance, x[2::3].var((0, 2, 3), correction=0))


@pytest.mark.parametrize(("renormalize", "mean", "variance"), [(False, 8.75, 1.3671875), (True, 10, 0)])
def test_weight_of_an_absent_task_is_lost_unless_asked_for(renormalize, mean, variance):
    layer = build_norm("AdaB2N", 1, num_tasks=3, kappa=0, renormalize_absent=renormalize).double()
    x = torch.full((5, 1, 2, 2), 10.0, dtype=torch.float64)
    found = statistics_of(layer, x, BatchContext(2, torch.tensor([1, 1, 2, 2, 2]), 3))
    assert [value.item() for value in found] == pytest.approx([mean, variance])


@pytest.mark.parametrize("tasks", [[2] * 6, [0] * 6, [2, 2, 2, 1, 1, 1]])
@pytest.mark.parametrize("renormalize", [False, True])
def test_gradients_with_absent_tasks(tasks, renormalize):
    layer = make("AdaB2N", channels=3, side=2, dtype=torch.float64, renormalize_absent=renormalize)
    begin_task(layer, 2)
    described = BatchContext(2, torch.tensor(tasks), 3)

    def run(x, *_parameters):
        with batch_context(layer, described):
            return layer(x)

    x = maps(6, 3, 2, torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(run, (x, *layer.parameters()))


def test_task_weights_beyond_the_current_task_have_no_gradient():
    layer = double()
    _, _, gradients = train_step(layer, maps(dtype=torch.float64).requires_grad_(), context(2))
    assert (gradients["task_weight"][:3] != 0).all()
    assert gradients["task_weight"][3] == 0


def test_order_of_samples_does_not_matter():
    order = torch.tensor([3, 11, 0, 7, 1, 9, 2, 10, 4, 5, 6, 8])
    described = context()
    permuted = BatchContext(2, described.task_of_sample[order], 8)
    first, second = double(), double()
    x = maps(dtype=torch.float64)
    y, regularizer, _ = train_step(first, x.clone().requires_grad_(), described)
    other, other_regularizer, _ = train_step(second, x[order].requires_grad_(), permuted)
    torch.testing.assert_close(other, y[order])
    torch.testing.assert_close(other_regularizer, regularizer)
    torch.testing.assert_close(state_of(second), state_of(first))


def test_regularizer_is_the_squared_distance_after_the_update():
    layer, x = double(kappa=0.4), maps(dtype=torch.float64)
    layer(maps(dtype=torch.float64, seed=3))
    old_mean, old_variance = layer.running_mean.clone(), layer.running_var.clone()
    layer(x)
    mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
    expected = (mean - layer.running_mean).square().mean() + (variance - layer.running_var).square().mean()
    found = norm_loss(layer)
    torch.testing.assert_close(found, expected)
    rest = 1 - step_size(torch.tensor(1), 0.4, MOMENTUM, torch.float64)
    before = (mean - old_mean).square().mean() + (variance - old_variance).square().mean()
    torch.testing.assert_close(found, rest**2 * before)


def test_first_regularizer_is_zero_with_kappa_zero():
    layer = double(kappa=0.0)
    layer(maps(dtype=torch.float64))
    assert norm_loss(layer).item() < 1e-28


def by_definition(layer, x, described):
    """Output and regularizer from the formulas, the running statistics being those after the update, as constants."""
    tasks = described.task_of_sample
    counts = torch.bincount(tasks, minlength=described.task + 1).to(x.dtype)
    balanced = counts + layer.task_weight[: described.task + 1].exp()
    weights = (balanced / balanced.sum() / counts.clamp(min=1))[tasks]
    if layer.renormalize_absent:
        weights = weights / weights.sum()
    weights = weights.view(-1, 1, 1, 1) / x[0, 0].numel()
    mean = (weights * x).sum((0, 2, 3))
    variance = (weights * (x - mean.view(1, -1, 1, 1)).square()).sum((0, 2, 3))
    y = (x - mean.view(1, -1, 1, 1)) / (variance + layer.eps).sqrt().view(1, -1, 1, 1)
    if layer.weight is not None:
        y = layer.weight.view(1, -1, 1, 1) * y + layer.bias.view(1, -1, 1, 1)
    distances = mean - layer.running_mean, variance - layer.running_var
    return y, sum(distance.square().mean() for distance in distances)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("renormalize", [True, False])
@pytest.mark.parametrize("tasks", [[2] * 6, [2, 2, 2, 0, 0, 1], [0, 1, 2, 2, 0, 2]])
@pytest.mark.parametrize("shares", [(1, 0), (0, 1), (1, 0.3)])
def test_closed_form_equals_the_definition(affine, renormalize, tasks, shares):
    layer, described = double(affine=affine, renormalize_absent=renormalize), BatchContext(2, torch.tensor(tasks), 3)
    layer(maps(6, dtype=torch.float64, seed=4))
    begin_task(layer, 2)
    inputs = [maps(6, dtype=torch.float64).requires_grad_() for _ in range(2)]
    weights = maps(6, dtype=torch.float64, seed=8)
    with batch_context(layer, described):
        y = layer(inputs[0])
    regularizer = norm_loss(layer)
    expected, expected_regularizer = by_definition(layer, inputs[1], described)
    torch.testing.assert_close((y, regularizer), (expected, expected_regularizer))
    totals = [
        shares[0] * (output * weights).sum() + shares[1] * distance
        for output, distance in ((y, regularizer), (expected, expected_regularizer))
    ]
    found, wanted = [
        torch.autograd.grad(total, [x, *layer.parameters()], allow_unused=True, materialize_grads=True)
        for total, x in zip(totals, inputs, strict=True)
    ]
    torch.testing.assert_close(found, wanted)


def test_two_regularizers_before_one_backward():
    layer, single = double(), double()
    x = maps(dtype=torch.float64).requires_grad_()
    single(x)
    expected = torch.autograd.grad(norm_loss(single), x)
    layer(x)
    first = norm_loss(layer)
    layer(maps(dtype=torch.float64, seed=4))
    (found, *_) = torch.autograd.grad(first + norm_loss(layer), x)
    torch.testing.assert_close(found, expected[0])


def test_no_graph_stays_alive_after_backward():
    layer = make("AdaB2N")
    y = layer(maps().requires_grad_())
    y.sum().backward()
    graph = weakref.ref(y.grad_fn)
    del y
    gc.collect()
    assert graph() is None
    regularizer = norm_loss(layer)  # its value can still be had
    assert regularizer.item() > 0
    assert not regularizer.requires_grad


def test_regularizer_has_a_graph_before_backward_and_is_given_once():
    layer = make("AdaB2N")
    y = layer(maps().requires_grad_())
    assert norm_loss(layer).requires_grad
    assert norm_loss(layer).item() == 0
    y.sum().backward()
    assert norm_loss(layer).item() == 0


def test_resumed_layer_equals_the_uninterrupted_one():
    whole, first = make("AdaB2N", kappa=0.5), make("AdaB2N", kappa=0.5)
    for number in range(6):
        if number == 3:
            saved, first = first.state_dict(), make("AdaB2N", kappa=0.5)
            first.load_state_dict(saved)
        for layer in (whole, first):
            train_step(layer, maps(seed=number).requires_grad_(), context(1 + number // 2))
    assert all(torch.equal(value, first.state_dict()[name]) for name, value in whole.state_dict().items())
    assert whole.cur_tasks == 3


def test_one_channel():
    layer = make("AdaB2N", channels=1, dtype=torch.float64)
    y, regularizer, _ = train_step(layer, maps(channels=1, dtype=torch.float64).requires_grad_(), context())
    assert y.shape == (12, 1, 3, 3)
    assert regularizer.dim() == 0


def test_settings_out_of_range():
    with pytest.raises(NormError, match="num_tasks"):
        build_norm("AdaB2N", 8)
    with pytest.raises(NormError, match="num_tasks"):
        build_norm("AdaB2N", 8, num_tasks=0)
    with pytest.raises(NormError, match=r"kappa must be between 0 and 1, not 1\.5"):
        build_norm("AdaB2N", 8, num_tasks=2, kappa=1.5)


def test_task_beyond_the_number_of_tasks():
    with pytest.raises(ValueError, match="built for 4 tasks: task 4"):
        begin_task(make("AdaB2N"), 4)


def test_declared_defaults():
    layer = type(make("AdaB2N"))
    defaults = {option.name: option.default for option in (*layer.options, *layer.regularizer_options)}
    assert defaults == {"kappa": 0.4, "renormalize_absent": False, "lambd": 0.1, "ada_t0": 0}
    assert make("AdaB2N").kappa == 0.4
