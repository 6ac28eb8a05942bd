"""What a training step costs with each normalization layer, compared with BN in the same process.

A step is forward, regularizer and backward in the sixth task, on images of 32 pixels: ResNet-32 on 48 current and 16
memory rows, or ResNet-18 of width 64 on 10 and 20. All layers take turns, round by round; a ratio is taken within a
round, and the median over the rounds is shown, beside the ratio of the least times. Layers train with fused kernels
where there are some, as in runs.

    python benchmarks/norm_layers.py --backbone resnet18 --threads 1

On a machine with other work `--clock processor` is steadier; several threads must not wait busily then:
`OMP_WAIT_POLICY=passive GOMP_SPINCOUNT=0`.
"""

import argparse
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from backbone.kernels import choose_norm_kernels
from backbone.norm import BatchContext, NormFactory, batch_context, begin_task, norm_factory, norm_loss
from backbone.norm.context import ContextNorm
from backbone.norm.tbbn import num_balanced_groups
from utils.config.registry import BACKBONES, NORMS
from utils.run.environment import choose_memory_format

TASK = 5
NUM_TASKS = 10
NUM_ROWS = {"resnet32": (48, 16), "resnet18": (10, 20)}  # current ones and those of memory
OPTIONS = {"GN": {"adjust_groups": True}, "CN": {"adjust_groups": True}}  # the first stage has 16 channels
NAIVE = "naive TBBN"
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}


class NaiveTBBN(ContextNorm):
    """TBBN by its definition: the memory samples are repeated once for every group."""

    name = NAIVE

    def normalize_batch(self, x: Tensor) -> Tensor:
        num_current = self.context_of(x).num_current
        num_groups = num_balanced_groups(num_current, len(x) - num_current, self.task)
        groups = x[:num_current].unflatten(0, (-1, num_groups))
        repeated = x[num_current:, None].expand(-1, num_groups, -1, -1, -1)
        batch = torch.cat([groups, repeated]).flatten(1, 2)
        mean, variance = self.running_mean.repeat(num_groups), self.running_var.repeat(num_groups)
        weight, bias = self.weight.repeat(num_groups), self.bias.repeat(num_groups)
        y = F.batch_norm(batch, mean, variance, weight, bias, True, 0.1, self.eps)
        y = y.unflatten(1, (num_groups, -1))
        self.running_mean.copy_(mean.view(num_groups, -1).mean(0))
        self.running_var.copy_(variance.view(num_groups, -1).mean(0))
        return torch.cat([y[: len(groups)].flatten(0, 1), y[len(groups) :].mean(1)])


def make_step(name: str, backbone_name: str, device: torch.device) -> Callable[[], None]:
    """A training step of the network with this layer, in the memory format that runs have."""
    torch.manual_seed(0)
    options = OPTIONS.get(name, {})
    factory = NormFactory(NaiveTBBN) if name == NAIVE else norm_factory(name, num_tasks=NUM_TASKS, **options)
    backbone = BACKBONES.get(backbone_name)(factory, image_size=32).to(device)
    memory_format = choose_memory_format(device, "fp32")
    backbone.arrange(memory_format)
    network = nn.Sequential(backbone, nn.Linear(backbone.num_features, 100, device=device))
    begin_task(network, TASK)
    num_current, num_memory = NUM_ROWS[backbone_name]
    images = torch.randn(num_current + num_memory, 3, 32, 32, device=device).contiguous(memory_format=memory_format)
    labels = torch.randint(0, 100, (len(images),), device=device)
    tasks = torch.cat([torch.full((num_current,), TASK), torch.arange(num_memory) % TASK])

    def step() -> None:
        network.zero_grad()
        with batch_context(network, BatchContext(TASK, tasks, num_current)):
            scores = network(images)
        loss = F.cross_entropy(scores, labels) + 0.1 * norm_loss(network)
        loss.backward()

    return step


def time_steps(step: Callable[[], None], arguments: argparse.Namespace) -> float:
    """Milliseconds per step."""
    clock = CLOCKS[arguments.clock]
    start = clock()
    for _ in range(arguments.steps):
        step()
    if arguments.device.type == "cuda":
        torch.cuda.synchronize()
    return (clock() - start) / arguments.steps * 1000


def measure(names: list[str], arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Milliseconds per step of every layer, in each of the interleaved rounds."""
    steps = {name: make_step(name, arguments.backbone, arguments.device) for name in names}
    for step in steps.values():
        step()
    times: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(arguments.rounds):
        for name, step in steps.items():
            times[name].append(time_steps(step, arguments))
    return times


def report(times: dict[str, list[float]]) -> None:
    print(f"{'layer':<12}{'ms per step':>12}{'ratio to BN':>13}{'from':>8}{'to':>8}{'of least':>10}")
    for name, each in times.items():
        ratios = [own / reference for own, reference in zip(each, times["BN"], strict=True)]
        middle = statistics.median(ratios)
        least = min(each) / min(times["BN"])
        print(
            f"{name:<12}{statistics.median(each):>12.1f}{middle:>13.2f}{min(ratios):>8.2f}{max(ratios):>8.2f}{least:>10.2f}"
        )


def main() -> None:
    everything = ["BN", *(name for name in NORMS.names() if name != "BN"), NAIVE]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", choices=NUM_ROWS, default="resnet32")
    parser.add_argument("--threads", type=int, default=1, help="threads of the CPU")
    parser.add_argument("--steps", type=int, default=2, help="steps of a layer in each round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="processor: of all threads of the process")
    parser.add_argument("--layers", nargs="+", default=everything, choices=everything, help="besides BN")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--fused_norms", choices=("auto", "on", "off"), default="auto")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    is_fused = choose_norm_kernels(arguments.fused_norms, NORMS.get("BN"), "fp32", arguments.device, print)
    warnings.filterwarnings("ignore", message=".*channels are in .* groups instead")
    names = list(dict.fromkeys(["BN", *arguments.layers]))
    print(
        "{}, {} + {} images of 32 px, ".format(arguments.backbone, *NUM_ROWS[arguments.backbone])
        + f"task {TASK}, {arguments.device}, {arguments.threads} threads, torch {torch.__version__}, "
        f"{'with' if is_fused else 'without'} fused kernels, "
        f"{arguments.rounds} rounds of {arguments.steps} steps, {arguments.clock} time"
    )
    report(measure(names, arguments))


if __name__ == "__main__":
    main()
