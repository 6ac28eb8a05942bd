"""A captured training step on a GPU: every normalization layer against BN, alone and in several processes.

    python benchmarks/gpu.py [--layers NAME …] [--precisions fp32 tf32 bf16] [--processes 1 8] [--profile] [--json FILE]

A step is one of the third task on images of 32 px, batches of 10 and, for a method with memory, 10 from there, with the
memory format and the CUDA graph that runs have. The layers of a precision take turns; the ratio to BN is taken within a
round, and medians are printed. With `--processes`, so many processes take steps with BN at the same time, and all their
steps give the milliseconds of one. They share the GPU as it is set up: start the Multi-Process Service before, to
measure that. `--convolutions` measures the convolutions of a step alone in the same way, forward and backward on maps
that lie ready: a step cannot take less as long as it is made of these. `--profile` adds the kernels of a step and the
sum of their times, as PyTorch's profiler has them, at the end: once it has looked, every later step of the process is
slower.

`--device cpu` shows that the program runs; there is nothing to learn from what it prints then.
"""

import argparse
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from benchmarks.step import Steps, command, make_training, measure, measured_stages, write_images
from utils.config.registry import METHODS, NORMS
from utils.errors import UserError
from utils.run.environment import choose_device, set_arithmetic
from utils.run.steps import CudaGraphs, Losses

PATIENCE = 300  # seconds in which all processes have to be ready
PROFILED, WARM_UP_STEPS = 5, 10
CONVOLUTIONS = "convolutions alone"


def make_steps(layer: str, precision: str, options: argparse.Namespace, root: Path) -> Steps:
    """Steps of a run, captured if the device allows it once the first few have been taken."""
    settings = argparse.Namespace(nl=layer, nf=options.nf, precision=precision, device=str(options.device))
    words = command(options.model, root, settings)
    words += ["--cuda_graph", options.cuda_graph, "--fused_norms", options.fused_norms]
    _, steps = next(measured_stages(make_training(words, root, captured=True)))
    steps(1)  # which is captured while norm layers have the kernels that are chosen for this one
    return steps


def compare_layers(precision: str, options: argparse.Namespace, root: Path) -> list[dict[str, Any]]:
    """Measure the steps of every layer, and print a line for each."""
    made = {layer: make_steps(layer, precision, options, root) for layer in options.layers}
    times: dict[str, list[float]] = {layer: [] for layer in made}
    for number in range(options.rounds + 1):
        for layer, steps in made.items():
            measure(steps, WARM_UP_STEPS, options.device, time.perf_counter)  # a graph is sent anew after another's
            took = measure(steps, options.steps, options.device, time.perf_counter)
            times[layer] += [took] if number else []  # in the first round memory fills
    found = []
    for layer in made:
        ratio = statistics.median(own / of_bn for own, of_bn in zip(times[layer], times["BN"], strict=True))
        figures = {"ms": statistics.median(times[layer]), "of_bn": ratio}
        print("{:9} {:7} {:8.3f}  {:5.2f}".format(precision, layer, *figures.values()), flush=True)
        found.append({"precision": precision, "layer": layer, **figures})
    return found


def profiled(precision: str, layer: str, options: argparse.Namespace, root: Path) -> dict[str, Any]:
    """Kernels of a layer's step, and the milliseconds that they take in all; print a line."""
    steps = make_steps(layer, precision, options, root)
    measure(steps, WARM_UP_STEPS, options.device, time.perf_counter)
    kinds = torch.profiler.ProfilerActivity
    with torch.profiler.profile(activities=[kinds.CPU, kinds.CUDA]) as found:  # the latter alone finds none
        measure(steps, PROFILED, options.device, time.perf_counter)
    kernels = [event for event in found.events() if event.device_type is torch.autograd.DeviceType.CUDA]
    total = sum(event.time_range.elapsed_us() for event in kernels) / 1000
    figures = {"kernels": len(kernels) / PROFILED, "kernels_ms": total / PROFILED}
    print("{:9} {:7} {:8.0f}  {:8.3f}".format(precision, layer, *figures.values()), flush=True)
    return {"precision": precision, "layer": layer, **figures}


_everybody: Any  # a barrier, in a process that takes steps beside others


def _begin(everybody: Any) -> None:
    global _everybody
    _everybody = everybody


def make_convolutions(precision: str, options: argparse.Namespace, root: Path) -> Steps:
    """All convolutions of a step alone, forward and backward, captured if the device allows it."""
    settings = argparse.Namespace(nl="BN", nf=options.nf, precision=precision, device=str(options.device))
    training = make_training(command(options.model, root, settings), root)
    network, dtype = training.method.network, torch.bfloat16 if precision == "bf16" else torch.float32
    calls: list[tuple[Any, Tensor, Tensor]] = []
    hooks = [each.register_forward_hook(partial(_note_call, calls)) for each in network.modules() if _convolves(each)]
    images = torch.randn(20, 3, 32, 32, device=options.device)
    with torch.no_grad(), network.autocast():
        network(images.contiguous(memory_format=training.augmentation.memory_format))
    for hook in hooks:
        hook.remove()
    kept = [
        (layer, layer.weight.detach().to(dtype), x.to(dtype), torch.randn_like(y, dtype=dtype)) for layer, x, y in calls
    ]

    def work() -> Losses:
        for number, (layer, weight, x, gradient) in enumerate(kept):
            conv2d(x, weight, None, layer.stride, layer.padding)
            wanted = [number > 0, True, False]  # nothing goes on to the images
            places = layer.stride, layer.padding, layer.dilation, False, [0, 0], layer.groups
            torch.ops.aten.convolution_backward(gradient, x, weight, None, *places, wanted)
        return {}

    for _ in range(WARM_UP_STEPS):
        work()
    if options.device.type == "cuda":
        torch.cuda.synchronize()
        graph = CudaGraphs()()
        graph.capture(work)
        work = graph.replay

    def steps(count: int) -> None:
        for _ in range(count):
            work()

    return steps


def _convolves(module: torch.nn.Module) -> bool:
    return isinstance(module, torch.nn.Conv2d)


def _note_call(calls: list[Any], layer: torch.nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
    calls.append((layer, *inputs, output))


def rate(number: int, precision: str, what: str, options: argparse.Namespace, root: Path) -> float:
    """Steps per second of one of several processes, once all are ready."""
    folder = root / str(number)
    folder.mkdir(exist_ok=True)
    write_images(folder)
    set_arithmetic(options.device, precision, fast=False, threads=1)
    steps = (make_convolutions if what == CONVOLUTIONS else partial(make_steps, what))(precision, options, folder)
    measure(steps, options.steps, options.device, time.perf_counter)
    _everybody.wait(PATIENCE)
    started, count = time.perf_counter(), 0
    while time.perf_counter() < started + options.seconds:
        measure(steps, options.steps, options.device, time.perf_counter)
        count += options.steps
    return count / (time.perf_counter() - started)


def together(number: int, precision: str, what: str, options: argparse.Namespace) -> dict[str, Any]:
    """Measure so many processes at the same time, with a norm layer or the convolutions alone, and print a line."""
    context = multiprocessing.get_context("spawn")
    start = {"initializer": _begin, "initargs": (context.Barrier(number),)}
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(number, context, **start) as pool:
        take = partial(rate, precision=precision, what=what, options=options, root=Path(folder))
        rates = [*pool.map(take, range(number))]
    ms = 1000 / sum(rates)
    print(
        f"{precision:9} {what} in {number} processes: {sum(rates):.1f} steps per second, {ms:.3f} ms each", flush=True
    )
    return {"precision": precision, "what": what, "processes": number, "ms": ms, "steps_per_second": rates}


def describe(device: torch.device) -> str:
    """The device and the versions that a figure belongs to."""
    if device.type != "cuda":
        return f"{device}, torch {torch.__version__}"
    name, driver = torch.cuda.get_device_name(device), f"CUDA {torch.version.cuda}"
    return f"{name}, torch {torch.__version__}, {driver}, cuDNN {torch.backends.cudnn.version()}"


def read_options(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    online = [name for name in METHODS.names() if METHODS.get(name).protocol == "online"]
    parser.add_argument("--model", default="er_ace", choices=online)
    parser.add_argument("--layers", nargs="+", default=NORMS.names(), choices=NORMS.names(), help="besides BN")
    parser.add_argument("--precisions", nargs="+", default=["fp32", "tf32", "bf16"], metavar="PRECISION")
    parser.add_argument("--nf", type=int, default=64, help="width of ResNet-18")
    parser.add_argument("--cuda_graph", choices=("on", "off"), default="on")
    parser.add_argument("--fused_norms", choices=("on", "off"), default="on")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=50, help="of a layer in each round")
    parser.add_argument("--processes", type=int, nargs="*", default=[], help="measure so many at the same time, too")
    parser.add_argument("--convolutions", action="store_true", help="measure those alone at the same time, too")
    parser.add_argument("--profile", action="store_true", help="count kernels, too")
    parser.add_argument("--seconds", type=float, default=4.0, help="for which processes take steps together")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args(words)
    options.layers = list(dict.fromkeys(["BN", *options.layers]))
    try:
        options.device = choose_device(options.device)
    except UserError as error:
        parser.error(str(error))
    if options.device.type != "cuda":
        options.cuda_graph = options.fused_norms = "off"
        options.profile = False
    return options


def main() -> int:
    """Measure and print."""
    options = read_options()
    ways = f"graphs {options.cuda_graph}, fused norms {options.fused_norms}"
    print(f"{describe(options.device)}\n{options.model}, ResNet-18 of width {options.nf}, {ways}")
    print("precision layer         ms  of BN")
    layers, processes, profiles = [], [], []
    try:
        for precision in options.precisions:
            set_arithmetic(options.device, precision, fast=False, threads=1)
            with tempfile.TemporaryDirectory() as folder:
                write_images(Path(folder))
                layers += compare_layers(precision, options, Path(folder))
            for what in ("BN", CONVOLUTIONS)[: 1 + options.convolutions]:
                processes += [together(number, precision, what, options) for number in options.processes]
        if options.profile:
            print("precision layer    kernels  their ms")
        for precision in options.precisions if options.profile else ():
            set_arithmetic(options.device, precision, fast=False, threads=1)
            with tempfile.TemporaryDirectory() as folder:
                write_images(Path(folder))
                profiles += [profiled(precision, layer, options, Path(folder)) for layer in options.layers]
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.json is not None:
        head = {"device": describe(options.device), "model": options.model, "nf": options.nf}
        ways = {"cuda_graph": options.cuda_graph, "fused_norms": options.fused_norms}
        whole = head | ways | {"layers": layers, "processes": processes, "profiles": profiles}
        options.json.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
