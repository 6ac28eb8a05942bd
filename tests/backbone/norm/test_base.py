"""What every registered layer has to do."""

import contextlib
import copy
import inspect
import io
import pickle

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from backbone.norm import NormError, batch_context, begin_task, build_norm
from tests.backbone.norm.rig import NAMES, as_on_a_gpu, context, make, maps, same_state, state_of, train_step
from utils.config.options import Option
from utils.config.registry import NORMS

everywhere = pytest.mark.parametrize("name", NAMES)


def layer_and_double(name, **options):
    layer = make(name, **options)
    return layer, copy.deepcopy(layer)


@everywhere
def test_declares_itself(name):
    layer = type(make(name))
    accepted = inspect.signature(layer).parameters
    for option in (*layer.options, *layer.regularizer_options):
        assert isinstance(option, Option)
    names = {option.name for option in layer.options}
    assert names | {"affine", "spatial_size"} <= accepted.keys()
    assert all(accepted[key].kind is inspect.Parameter.KEYWORD_ONLY for key in accepted if key != "num_features")
    for protocol in ("online", "offline"):
        assert "affine" in layer.protocol_defaults[protocol]
        assert layer.protocol_defaults[protocol].keys() <= names | {"affine"}
    assert layer.needs_joint == (name in ("TBBN", "AdaB2N"))


def test_published_defaults_of_the_two_studies():
    defaults = {name: type(make(name)).protocol_defaults for name in NAMES}
    online = {name: values["online"] for name, values in defaults.items()}
    offline = {name: values["offline"] for name, values in defaults.items()}
    assert online["GN"] == {"affine": True, "num_groups": 32}
    assert offline["GN"] == {"affine": False, "channels_per_group": 16}
    assert online["CN"] == {"affine": False, "num_groups": 32}
    assert offline["CN"] == {"affine": True, "num_groups": 8}
    assert online["IN"] == offline["IN"] == {"affine": False}
    assert all(online[name] == offline[name] == {"affine": True} for name in NAMES if name not in ("GN", "CN", "IN"))


@everywhere
def test_starts_as_published(name):
    layer = build_norm(name, 32, spatial_size=2, num_tasks=3)
    starts = dict.fromkeys(("weight", "running_var", "running_std", "mean_weight", "var_weight"), 1.0)
    starts |= {"SN": {"running_var": 0.0}, "DyT": {"alpha": 0.5}}.get(name, {})
    for key, value in layer.state_dict().items():
        expected = starts.get(key, 0.0)
        assert (value == expected).all(), key


@everywhere
def test_affine_can_be_had_and_left_out(name):
    assert {"weight", "bias"} <= dict(make(name, affine=True).named_parameters()).keys()
    layer = make(name, affine=False)
    assert layer.weight is None
    assert layer.bias is None
    described = context()
    train_step(layer, maps().requires_grad_(), described)
    layer.eval()
    assert layer(maps()).shape == maps().shape


@everywhere
@pytest.mark.parametrize("affine", [True, False])
def test_gradients_match_finite_differences(name, affine):
    layer = make(name, channels=4, side=2, dtype=torch.float64, affine=affine)
    begin_task(layer, 2)
    if hasattr(layer, "num_batches_tracked") and name == "BRN":
        layer.num_batches_tracked.fill_(5000)  # r = 1 and d = 0, the constants of the gradient
    x = maps(6, 4, 2, torch.float64).requires_grad_()
    buffers = {key: value.clone() for key, value in layer.named_buffers()}
    described = context(2, 4, 2)

    def run(x, *_parameters):
        for key, value in layer.named_buffers():
            value.data.copy_(buffers[key])
        with batch_context(layer, described):
            return layer(x)

    assert torch.autograd.gradcheck(run, (x, *layer.parameters()), atol=1e-7)


@everywhere
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("described", [None, context()])
def test_does_the_same_with_the_kernels_of_a_gpu(name, memory_format, affine, described):
    found, passed_on = [], []
    for kernels in (contextlib.nullcontext(), as_on_a_gpu()):
        layer, x = make(name, affine=affine, dtype=torch.float64), maps(dtype=torch.float64)
        x = x.contiguous(memory_format=memory_format).requires_grad_()
        x.register_hook(lambda gradient: passed_on.append(gradient.is_contiguous(memory_format=memory_format)))
        with kernels:
            y, _, gradients = train_step(layer, x, described)
        layer.eval()
        found.append({"y": y, "x": x.grad, **gradients, **state_of(layer), "evaluated": layer(x).detach()})
    torch.testing.assert_close(found[1], found[0])
    assert passed_on == [True, True]


@everywhere
def test_maps_of_a_single_pixel_have_the_gradients_of_float64(name):
    if NORMS.get(name).min_pixels > 1:
        return
    found = []
    for dtype in (torch.float64, torch.float32, torch.float32):
        layer, x = make(name, side=1, dtype=dtype), maps(side=1).to(dtype).requires_grad_()
        y, _, gradients = train_step(layer, x, context())
        found.append({"y": y, "x": x.grad, **{key: each for key, each in gradients.items() if each is not None}})
    exact, first, second = found
    assert same_state(first, second)
    for key, value in first.items():
        torch.testing.assert_close(value.double(), exact[key].double(), rtol=1e-3, atol=1e-3, msg=key)


@everywhere
@pytest.mark.parametrize("training", [True, False])
def test_a_sum_and_a_relu_may_follow(name, training):
    found = []
    for within in (True, False):
        layer, x, added = make(name), maps().requires_grad_(), maps(seed=3).requires_grad_()
        layer.train(training)
        if within:
            y, rectified = layer(x, added=added, rectified=True), layer(x, rectified=True)
        else:
            y, rectified = torch.relu(layer(x) + added), torch.relu(layer(x))
        found.append((y, rectified, *torch.autograd.grad((y + rectified).square().sum(), (x, added))))
    for first, second in zip(*found, strict=True):
        torch.testing.assert_close(first, second)


@everywhere
def test_evaluation_changes_nothing_and_needs_one_sample_only(name):
    layer = make(name)
    train_step(layer, maps().requires_grad_(), context())
    layer.eval()
    before = state_of(layer)
    x = maps(seed=5)
    first, second = layer(x), layer(x)
    assert torch.equal(first, second)
    assert same_state(before, state_of(layer))
    singles = torch.cat([layer(x[i : i + 1]) for i in range(len(x))])
    torch.testing.assert_close(singles, first, rtol=1e-5, atol=1e-5)


@everywhere
def test_evaluation_ignores_the_context_and_gives_no_regularizer(name):
    layer = make(name)
    described = context()
    train_step(layer, maps().requires_grad_(), described)
    layer.eval()
    plain = layer(maps())
    with batch_context(layer, described):
        assert torch.equal(layer(maps()), plain)


@everywhere
def test_training_without_gradients_moves_the_running_statistics(name):
    layer, double = layer_and_double(name)
    with torch.no_grad():
        layer.train()(maps())
    double.train()(maps())
    assert same_state(state_of(layer), state_of(double))
    if any(key.startswith("running") for key in layer.state_dict()):
        assert not same_state(state_of(layer), state_of(make(name)))


@everywhere
def test_deepcopy_right_after_a_forward(name):
    layer = make(name)
    described = context()
    begin_task(layer, described.task)
    with batch_context(layer, described):
        y = layer(maps().requires_grad_())
        double = copy.deepcopy(layer)  # while the batch is described, and its graph alive
    assert same_state(state_of(layer), state_of(double))
    y.sum().backward()
    before = state_of(layer)
    train_step(double, maps(5).requires_grad_())  # knows nothing of the batch of the other
    assert same_state(before, state_of(layer))


@everywhere
def test_pickle_and_state_dict_continue_where_the_layer_stopped(name):
    layer = make(name)
    train_step(layer, maps().requires_grad_(), context())
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    restored = make(name)
    restored.load_state_dict(torch.load(file, weights_only=True))
    copies = [restored, pickle.loads(pickle.dumps(layer))]
    described = context(2, 6, 3)
    for each in (layer, *copies):
        each.zero_grad()
    with batch_context(layer, described):
        expected = layer.train()(maps(9, seed=7))
    for each in copies:
        with batch_context(each, described):  # the task is known without begin_task
            assert torch.equal(each.train()(maps(9, seed=7)), expected)
        assert same_state(state_of(each), state_of(layer))


@everywhere
@pytest.mark.parametrize("layout", ["channels_last", "strided", "expanded"])
def test_memory_layout_does_not_matter(name, layout):
    plain, other = layer_and_double(name)
    x = maps()
    if layout == "expanded":
        x = x[:, :, :1, :1].expand(-1, -1, 3, 3) if name not in ("IN", "SN") else x
    arranged = x.contiguous(memory_format=torch.channels_last) if layout == "channels_last" else x
    if layout == "strided":
        arranged = torch.stack([x, -x], dim=-1)[..., 0]
    x, arranged = x.clone().requires_grad_(), arranged.detach().requires_grad_()
    expected = train_step(plain, x, context())
    found = train_step(other, arranged, context())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(arranged.grad, x.grad, rtol=1e-4, atol=1e-4)


class _NoMapIsCopied(TorchDispatchMode):
    """Fails on operations that only arrange maps of a shape anew."""

    def __init__(self, shape):
        super().__init__()
        self.shape = shape

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.name().removeprefix("aten::").partition(".")[0]
        result = function(*args, **(kwargs or {}))
        if name in ("clone", "copy_", "_to_copy", "contiguous"):
            assert result.numel() < self.shape.numel(), f"{name} copies the maps"
        return result


@everywhere
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_memory_format_is_kept_without_a_copy(name, layout):
    layer, described = make(name), context()
    begin_task(layer, described.task)
    x, gradient = (maps(seed=seed).contiguous(memory_format=layout) for seed in (2, 6))
    x.requires_grad_()
    with _NoMapIsCopied(x.shape):
        with batch_context(layer, described):
            y = layer(x)
        (grad_x,) = torch.autograd.grad(y, x, gradient)
    assert y.is_contiguous(memory_format=layout)
    assert grad_x.is_contiguous(memory_format=layout)


@everywhere
def test_steps_repeat_bit_for_bit(name):
    results = []
    for _ in range(2):
        x = maps().requires_grad_()
        layer = make(name)
        y, regularizer, gradients = train_step(layer, x, context())
        results.append([y, regularizer, x.grad, *gradients.values(), *layer.buffers()])
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))


@everywhere
def test_input_need_not_have_a_gradient(name):
    layer, other = layer_and_double(name, affine=True)
    _, _, expected = train_step(layer, maps().requires_grad_(), context())
    _, _, found = train_step(other, maps(), context())
    assert all(torch.equal(expected[key], found[key]) for key in expected)


@pytest.mark.parametrize("name", ["TBBN", "AdaB2N", "SN", "BRN"])
def test_second_derivatives_are_refused(name):
    layer, described = make(name), context()
    begin_task(layer, described.task)
    x = maps().requires_grad_()
    with batch_context(layer, described):
        y = layer(x)
    (gradient,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        gradient.sum().backward()


@everywhere
def test_gradients_may_come_in_any_layout(name):
    plain, other = layer_and_double(name)
    results = []
    gradient = maps(seed=6)
    for layer, factor in ((plain, gradient), (other, gradient.contiguous(memory_format=torch.channels_last))):
        x = maps().requires_grad_()
        layer(x).backward(factor)
        results.append(x.grad)
    torch.testing.assert_close(*results)


@everywhere
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_maps_have_statistics_in_single_precision(name, dtype):
    single, half = layer_and_double(name)
    x = maps().to(dtype)
    expected, _, _ = train_step(single, x.float().requires_grad_(), context())
    y, _, gradients = train_step(half, x.requires_grad_(), context())
    assert y.dtype == x.grad.dtype == dtype
    tolerance = {torch.bfloat16: 2e-2, torch.float16: 3e-3}[dtype]
    torch.testing.assert_close(y.float(), expected, rtol=tolerance, atol=tolerance)
    for key, value in half.state_dict().items():
        assert value.dtype == single.state_dict()[key].dtype
        torch.testing.assert_close(value, single.state_dict()[key], rtol=1e-5, atol=1e-5)
    assert all(gradient.dtype == torch.float32 for gradient in gradients.values() if gradient is not None)


@everywhere
def test_autocast_does_not_touch_the_statistics(name):
    plain, other = layer_and_double(name)
    x = maps()
    expected = train_step(plain, x.clone().requires_grad_(), context())
    with torch.autocast("cpu", torch.bfloat16):
        found = train_step(other, x.clone().requires_grad_(), context())
    assert found[0].dtype == torch.float32
    torch.testing.assert_close(found, expected)


@everywhere
def test_double_precision_throughout(name):
    layer = make(name, dtype=torch.float64)
    y, _, gradients = train_step(layer, maps(dtype=torch.float64).requires_grad_(), context())
    floating = [y, *gradients.values(), *layer.buffers()]
    assert all(
        tensor.dtype == torch.float64 for tensor in floating if tensor is not None and tensor.is_floating_point()
    )


@everywhere
@pytest.mark.filterwarnings("ignore:.*no common divisor")
def test_batch_size_may_vary(name):
    layer = make(name)
    for num_current, num_memory in ((8, 4), (5, 3), (7, 0), (2, 2), (0, 6)):
        size = num_current + num_memory
        x = maps(size).requires_grad_()
        y, _, _ = train_step(layer, x, context(2, num_current, num_memory))
        assert y.shape == x.shape
        assert torch.isfinite(y).all()
        assert torch.isfinite(x.grad).all()


@everywhere
def test_large_offset_costs_no_precision(name):
    single, double = make(name), make(name, dtype=torch.float64)
    x = maps(dtype=torch.float64) + 300
    x = x.float().double()
    expected, _, _ = train_step(double, x.requires_grad_(), context())
    found, _, _ = train_step(single, x.detach().float().requires_grad_(), context())
    torch.testing.assert_close(found.double(), expected, rtol=2e-3, atol=2e-3)


@everywhere
def test_two_forwards_before_one_backward(name):
    layer, single = layer_and_double(name)
    described = context()
    for each in (layer, single):
        begin_task(each, described.task)
    x = maps().requires_grad_()
    single(x).square().sum().backward()
    expected, x.grad = x.grad, None
    plain = layer(x)
    with batch_context(layer, described):
        balanced = layer(maps(seed=9).requires_grad_())
    (plain.square().sum() + balanced.sum()).backward()
    torch.testing.assert_close(x.grad, expected)


class _NothingWaits(TorchDispatchMode):
    """Fails on operations for which the host would have to wait for the device."""

    WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal", "is_nonzero", "bincount")

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.name().removeprefix("aten::").partition(".")[0]
        assert name not in self.WAITING, f"{name} waits for the device"
        if name == "index":
            assert all(index is None or index.dtype != torch.bool for index in args[1]), "a mask waits for the device"
        return function(*args, **(kwargs or {}))


@everywhere
def test_nothing_in_a_step_waits_for_the_device(name):
    layer = make(name)
    begin_task(layer, 2)
    described = context()
    x = maps().requires_grad_()
    with batch_context(layer, described):
        layer(x)  # the first step of a composition makes what later ones keep
    with _NothingWaits():
        with batch_context(layer, described):
            y = layer(x)
        y.backward(torch.ones_like(y))
        layer.eval()(x)


@everywhere
def test_rejects_other_shapes(name):
    layer = make(name)
    with pytest.raises(ValueError, match=f"{name} for 8 channels"):
        layer(maps(channels=4))
    with pytest.raises(ValueError, match=r"\[N, 8, H, W\]"):
        layer(torch.zeros(3, 8))


@pytest.mark.parametrize("name", ["BN", "TBBN", "CN"])
def test_single_value_per_channel_is_an_error_in_training(name):
    layer = make(name, side=1)
    with pytest.raises(NormError, match=f"{name} has 1 value per channel"):
        layer(maps(1, side=1))
    assert layer.eval()(maps(1, side=1)).shape == (1, 8, 1, 1)


@pytest.mark.parametrize("name", ["BRN", "AdaB2N"])
def test_single_value_per_channel_gives_the_bias(name):
    layer = make(name, side=1)
    x = maps(1, side=1).requires_grad_()
    y = layer(x)
    y.sum().backward()
    torch.testing.assert_close(y[0, :, 0, 0], layer.bias, rtol=0, atol=1e-3)
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("name", ["IN", "SN"])
@pytest.mark.parametrize("training", [True, False])
def test_single_pixel_is_an_error(name, training):
    layer = make(name).train(training)
    with pytest.raises(NormError, match=f"{name} needs maps of at least 2 pixels"):
        layer(maps(side=1))
    with pytest.raises(NormError, match=f"{name} needs maps of at least 2 pixels"):
        make(name, side=1)


@pytest.mark.parametrize("name", ["LN", "IN", "GN", "FRN", "DyT"])
def test_layers_of_single_samples_do_not_depend_on_the_composition(name):
    layer = make(name)
    x = maps()
    torch.testing.assert_close(layer(x), torch.cat([layer(x[:8]), layer(x[8:])]))


@pytest.mark.parametrize("name", ["BN", "BRN", "SN", "CN"])
def test_layers_of_batches_depend_on_the_composition(name):
    joint, separate = layer_and_double(name)
    x = torch.cat([maps(8), maps(4) + 3])
    together, apart = joint(x), torch.cat([separate(x[:8]), separate(x[8:])])
    assert (together - apart).abs().max() > 0.1
    assert not torch.equal(joint.running_mean, separate.running_mean)
    if name != "SN":
        assert (joint.num_batches_tracked, separate.num_batches_tracked) == (1, 2)


@everywhere
def test_number_of_features_must_be_positive(name):
    with pytest.raises(NormError, match=f"{name}: num_features"):
        make(name, channels=0)


@everywhere
def test_representation_tells_the_settings(name):
    text = repr(make(name))
    assert "8, " in text
    assert "affine=" in text


@everywhere
def test_what_follows_may_work_in_place(name):
    plain, followed = layer_and_double(name)
    inputs = [maps().requires_grad_() for _ in range(2)]
    expected = torch.relu(plain(inputs[0]))
    found = torch.relu_(followed(inputs[1]))
    for y in (expected, found):
        y.square().sum().backward()
    assert torch.equal(found, expected)
    assert torch.equal(inputs[0].grad, inputs[1].grad)
