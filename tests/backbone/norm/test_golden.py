"""Every layer against the recorded steps of the published programs."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from backbone.norm import BatchContext, batch_context, begin_task, build_norm, norm_loss
from tests.backbone.norm.rig import fused
from tests.golden import GOLDEN

INDEX = json.loads((GOLDEN / "norm" / "index.json").read_text())["files"]
TOLERANCE = {"float64": 1e-9, "float32": 1e-5}
REDUCED = ("loss", "task_weight", "mean_weight", "var_weight")  # small reduced quantities: 1e-4 in float32
OPTIONS = ("eps", "momentum", "affine", "num_groups", "channels_per_group", "kappa", "num_tasks")
COMPILED = [entry["file"] for entry in INDEX if not entry["file"].startswith("ln")]  # of layers with such kernels
PARAMETERS = ("weight", "bias", "task_weight", "mean_weight", "var_weight")
BUFFERS = ("running_mean", "running_var", "running_std", "num_batches_tracked", "cur_tasks")


def assert_close(computed, recorded, dtype, what):
    computed = computed.detach().cpu().numpy()
    if recorded.dtype.kind == "i":
        np.testing.assert_array_equal(computed, recorded, err_msg=what)
        return
    tolerance = 1e-4 if dtype == "float32" and what.endswith(REDUCED) else TOLERANCE[dtype]
    assert computed.shape == recorded.shape, what
    error = np.abs(computed - recorded).max()
    assert error <= tolerance * max(np.abs(recorded).max(), 0.01), f"{what}: {error}"


def build(meta, file):
    options = {name: meta[name] for name in OPTIONS if name in meta}
    if "channels_per_group" in options:
        options.pop("num_groups")
    if meta["layer"] in ("IN", "GN", "LN"):
        options.pop("momentum", None)
    if meta["layer"] == "SN":
        options["decay"] = options.pop("momentum")  # the weight of the old value
    channels, _, side = meta["shape"][1:]
    layer = build_norm(meta["layer"], channels, spatial_size=side, **options).to(getattr(torch, meta["dtype"]))
    for name in PARAMETERS + BUFFERS:
        if f"init_{name}" in file:
            getattr(layer, name).data.copy_(torch.tensor(file[f"init_{name}"]))
        elif name in PARAMETERS:
            assert getattr(layer, name, None) is None, f"{name} is not in the published layer"
    return layer


def load_parameters(layer, file, prefix):
    for name in PARAMETERS:
        if f"{prefix}_{name}" in file:
            getattr(layer, name).data.copy_(torch.tensor(file[f"{prefix}_{name}"]))


def describe(step, file, key):
    """The context of a recorded step, None for a forward without one."""
    if "n_memory" in step:
        num_samples = step["n_current"] + step["n_memory"]
        tasks = torch.zeros(num_samples, dtype=torch.int64, device="cpu")
        return BatchContext(step["task_index"], tasks, step["n_current"])
    if step.get("counts_given"):
        tasks = torch.from_numpy(file[f"{key}_task_of_sample"]).long()
        return BatchContext(step["task_index"], tasks, int((tasks == step["task_index"]).sum()))
    return None


def forward(layer, step, file, key):
    inputs = torch.tensor(file[f"{key}_x"]).requires_grad_()
    context = describe(step, file, key)
    if context is None:
        return inputs, layer(inputs)
    with batch_context(layer, context):
        return inputs, layer(inputs)


def gradients(layer, inputs, total):
    """Of the input and every parameter; a parameter that is not used has zeros."""
    leaves = SimpleNamespace(x=inputs, **dict(layer.named_parameters()))
    names, values = zip(*vars(leaves).items(), strict=True)
    found = torch.autograd.grad(total, values, retain_graph=True, allow_unused=True)
    return {
        name: torch.zeros_like(value) if grad is None else grad
        for name, value, grad in zip(names, values, found, strict=True)
    }


def check_step(layer, meta, file, index):
    key, step, dtype = f"s{index:02d}", meta["steps"][index], meta["dtype"]
    if step["boundary_before"] or step["task_index"] == 0:
        begin_task(layer, step["task_index"])
    load_parameters(layer, file, f"{key}_pre")
    inputs, outputs = forward(layer, step, file, key)
    assert_close(outputs, file[f"{key}_y"], dtype, f"{key}_y")
    task_loss = (outputs * torch.tensor(file[f"{key}_g"])).sum()
    totals = {"grad": task_loss}
    if f"{key}_loss" in file:
        regularizer = norm_loss(layer)
        assert_close(regularizer, file[f"{key}_loss"], dtype, f"{key}_loss")
        totals["gradtot"] = task_loss + meta["lambd"] * regularizer
    for prefix, total in totals.items():
        for name, gradient in gradients(layer, inputs, total).items():
            assert_close(gradient, file[f"{key}_{prefix}_{name}"], dtype, f"{key}_{prefix}_{name}")
    for name in BUFFERS:
        if f"{key}_post_{name}" in file and not (meta["layer"] == "CN" and name == "num_batches_tracked"):
            assert_close(getattr(layer, name), file[f"{key}_post_{name}"], dtype, f"{key}_post_{name}")


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("name", [entry["file"] for entry in INDEX])
def test_layer_is_the_published_one(name):
    check_file(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [each["file"] for each in INDEX if "f32" in each["file"]])
def test_layer_is_the_published_one_with_triton_kernels(name, device):
    if device.type == "cpu" and name.startswith("tbbn_48_16"):
        pytest.skip("takes more than a minute in Triton's interpreter, and has groups like the others")
    with fused(device, "triton") as taken:
        check_file(name)
    assert taken


@pytest.mark.parametrize("name", COMPILED)
def test_layer_is_the_published_one_with_compiled_kernels(name):
    with fused(torch.device("cpu"), "compiled") as taken:
        check_file(name)
    assert taken


def check_file(name):
    with np.load(GOLDEN / "norm" / name) as stored:
        file = dict(stored)
    meta = json.loads(str(file["meta"]))
    layer = build(meta, file)
    for index in range(meta["n_steps"]):
        check_step(layer, meta, file, index)
    layer.eval()
    load_parameters(layer, file, "eval")
    before = {key: value.clone() for key, value in layer.state_dict().items()}
    outputs = layer(torch.tensor(file["eval_x"]))
    assert_close(outputs, file["eval_y"], meta["dtype"], "eval_y")
    assert all(torch.equal(value, before[key]) for key, value in layer.state_dict().items())


def test_every_recorded_file_is_read():
    assert sorted(entry["file"] for entry in INDEX) == sorted(path.name for path in (GOLDEN / "norm").glob("*.npz"))
    assert len(INDEX) > 40
