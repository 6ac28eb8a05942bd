"""Cost of evaluating many test sets together against one after another, and of batches of several sizes.

    python benchmarks/evaluation.py [--device DEVICE] [--threads N] [--rounds N] [--nf N] [--sizes N …]

Two streams of random images of 32 px: 200 tasks of one test image each, and CIFAR-10's five tasks of 2000. One after
another is how it was before: a forward has images of one task alone. Rounds alternate, the ratio is taken within a
round, and its median is printed. With `--sizes`, the images of one stream are evaluated in batches of these sizes.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor

from backbone.norm import norm_factory
from models.heads import HEADS, Network
from utils.config.registry import BACKBONES
from utils.data.augment import Augmentation, Transform
from utils.data.pools import TensorPool
from utils.inference import evaluating, inference_batch_size
from utils.run.evaluate import evaluate

STREAMS = {"200 tasks of 1 image": (200, 1), "5 tasks of 2000 images": (5, 2000)}
Measured = Callable[[], float]


def make_network(options: argparse.Namespace, num_classes: int) -> Network:
    """The online study's network."""
    backbone = BACKBONES.get("resnet18")(norm_factory("BN"), image_size=32, nf=options.nf)
    return Network(backbone, HEADS["linear"](backbone.num_features, num_classes)).to(options.device)


def make_pools(num_tasks: int, size: int, device: str) -> tuple[TensorPool, list[TensorPool]]:
    """Test sets of so many images, together and one by one; each task has one class."""
    tasks = torch.arange(num_tasks).repeat_interleave(size)
    images = torch.randint(0, 256, (len(tasks), 3, 32, 32), generator=torch.Generator().manual_seed(0))
    pool = TensorPool(images.to(device, torch.uint8), tasks.to(device), tasks)
    return pool, [pool.section(slice(task * size, (task + 1) * size)) for task in range(num_tasks)]


def measured(network: Network, pools: list[TensorPool], num_tasks: int) -> Measured:
    """Seconds that evaluating these test sets takes, one call each."""
    prepare: Callable[[Tensor], Tensor] = Augmentation(Transform(4, True, (0.5,) * 3, (0.25,) * 3), {}).prepare
    task_of_class = torch.arange(num_tasks)

    def once() -> float:
        started = time.perf_counter()
        for pool in pools:
            with evaluating(network):
                evaluate(network, pool, prepare=prepare, task_of_class=task_of_class)
        return time.perf_counter() - started

    return once


def alternate(kinds: Mapping[str, Measured], rounds: int) -> dict[str, list[float]]:
    """Seconds of each kind, round by round; a round of warming up is left out."""
    times: dict[str, list[float]] = {name: [] for name in kinds}
    for number in range(rounds + 1):
        for name in list(kinds)[:: 1 if number % 2 else -1]:
            seconds = kinds[name]()
            times[name] += [seconds] if number else []
    return times


def compare_streams(options: argparse.Namespace) -> None:
    """Print a line for each stream."""
    for title, (num_tasks, size) in STREAMS.items():
        network = make_network(options, num_tasks)
        pool, parts = make_pools(num_tasks, size, options.device)
        kinds = {"apart": measured(network, parts, num_tasks), "together": measured(network, [pool], num_tasks)}
        times = alternate(kinds, options.rounds)
        ratio = statistics.median(b / a for a, b in zip(times["apart"], times["together"], strict=True))
        apart, together = (statistics.median(times[name]) for name in kinds)
        print(
            f"{title:24}  one after another {apart:7.3f} s  together {together:7.3f} s  ratio {ratio:.3f}", flush=True
        )


def compare_sizes(options: argparse.Namespace) -> None:
    """Print a line for each size of batches."""
    num_images = options.images
    network = make_network(options, 1)
    once = measured(network, [make_pools(1, num_images, options.device)[0]], 1)

    def of_size(size: int) -> float:
        with mock.patch("utils.run.evaluate.inference_batch_size", return_value=size):
            return once()

    times = alternate({str(size): partial(of_size, size) for size in options.sizes}, options.rounds)
    for size, seconds in times.items():
        peak = ""
        if options.device != "cpu":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            of_size(int(size))
            peak = f"  {torch.cuda.max_memory_allocated() / 1e9:.2f} GB"
        print(
            f"batches of {size:>5}: {1e3 * statistics.median(seconds) / num_images:7.3f} ms per image{peak}", flush=True
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--nf", type=int, default=20, help="width of ResNet-18 [20]")
    parser.add_argument("--sizes", type=int, nargs="+", help="measure batches of these sizes instead")
    parser.add_argument("--images", type=int, default=400, help="with --sizes: so many images [400]")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    chosen = inference_batch_size((32, 32), torch.device(options.device))
    print(
        f"ResNet-18 of width {options.nf}, {options.device}, {options.threads} threads; batches of {chosen} are chosen"
    )
    (compare_sizes if options.sizes else compare_streams)(options)


if __name__ == "__main__":
    main()
