"""Cost of the suite's own step against a bare loop over the same forwards, for every method, in one process.

    python benchmarks/step.py [--models NAME …] [--threads N] [--rounds N] [--nf N] [--nl NORM]

The bare loop has the same network, optimizer and batch sizes, on plain tensors that lie ready: as many forwards, the
teacher's included, a cross-entropy, backward, step. It has no stream, no augmentation, no memory, no meter, no
checkpoint, and none of the method's own loss. Rounds alternate; the ratio of the medians is printed.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from utils.configuration import configure
from utils.data_plan import Loaders
from utils.errors import UserError
from utils.main import make_augmentation, make_method, make_stream
from utils.record import Record
from utils.registry import METHODS
from utils.stopping import StopRequest
from utils.trackers import NullTracker
from utils.training import Outlets, Training


class Silence:
    """A screen that shows nothing."""

    def say(self, text, detail=False):
        """Say nothing."""

    def advance(self, done, loss):
        """Show nothing."""


def write_images(root: Path) -> None:
    """CIFAR-10's shapes, random pixels."""
    random = np.random.default_rng(0)
    (root / "cifar10").mkdir()
    for split, size in (("train", 400), ("test", 10)):
        images = random.integers(0, 256, (10 * size, 32, 32, 3), dtype=np.uint8)
        np.save(root / "cifar10" / f"{split}_x.npy", images)
        np.save(root / "cifar10" / f"{split}_y.npy", np.repeat(np.arange(10), size))


def command(model: str, root: Path, options: argparse.Namespace) -> list[str]:
    """The run that is measured."""
    words = f"--model {model} --dataset seq-cifar10 --data_root {root} --nl {options.nl} --lr 0.03".split()
    method = METHODS.get(model)
    if method.protocol == "online":
        words += ["--nf", str(options.nf)]
    return [*words, *(["--buffer_size", "500"] if method.uses_memory else []), "--device", options.device]


def suite_loop(model: str, root: Path, options: argparse.Namespace):
    """The suite's training in its second task; gives the method and a function that takes n steps."""
    config = configure(command(model, root, options))
    dataset = config.parts.dataset(**config.chosen(config.parts.dataset.options))
    arrays = dataset.load(root)
    device = torch.device(options.device)
    augmentation = make_augmentation(config, dataset, arrays, device)
    stream = make_stream(config, dataset, arrays, device)
    method = make_method(config, stream, augmentation, device)
    outlets = Outlets(Record(root / model).open(), NullTracker(), Silence(), "benchmark")
    loaders = Loaders(stream, method.memory, augmentation, config.batch_size, config.seed)
    training = Training(method, stream, loaders, augmentation, config, outlets, StopRequest())
    for task in range(2):
        method.begin_task(task)
        training.position.task = task
        stages = method.stages(task) or method.stages(stream.num_tasks - 1)
        for stage in stages if task == 0 else stages[:1]:
            method.begin_stage(stage)
            loader = loaders.of(stage.data, (task, 0))
            training.position.batch = 0
            batches = training._batches(loader, loader.num_batches)
            for _ in range(3):
                training._step(next(batches))
        if task == 0:
            method.end_task(task)

    def steps(number: int) -> None:
        training.position.batch = 0
        batches = training._batches(loader, loader.num_batches)
        for _ in range(number):
            training._step(next(batches))

    return method, steps


def sizes_of_forwards(method) -> list[int]:
    """Rows of each forward with gradients."""
    config = method.config
    if not method.uses_memory or method.keeps_exemplars:
        return [config.batch_size]
    num_draws = {"derpp": 2}.get(method.name, 1)
    sizes = [config.batch_size, *[config.minibatch_size] * num_draws]
    return [sum(sizes)] if config.forward == "joint" else sizes


def bare_loop(method, device: torch.device):
    """The same forwards on tensors that lie ready."""
    network, teacher = method.network, getattr(method, "teacher", None)
    inputs = [torch.randn(size, 3, 32, 32, device=device) for size in sizes_of_forwards(method)]
    labels = [torch.randint(0, 2, (len(images),), device=device) for images in inputs]
    (stage, *_) = method.stages(1) or method.stages(method.stream.num_tasks - 1)
    optimizer = torch.optim.SGD(list(method.trained(stage)), lr=0.03)

    def steps(number: int) -> None:
        for _ in range(number):
            loss = sum(cross_entropy(network(images), each) for images, each in zip(inputs, labels, strict=True))
            if teacher is not None:
                with torch.no_grad():
                    teacher(inputs[0])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return steps


def measure(steps, number: int, device: torch.device) -> float:
    """Milliseconds per step."""
    started = time.perf_counter()
    steps(number)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - started) / number * 1000


def ratio(suite, bare, options: argparse.Namespace, device: torch.device) -> tuple[float, float, float]:
    """Median milliseconds of both, and the median of their ratios, round by round."""
    times: dict[str, list[float]] = {"suite": [], "bare": []}
    for steps in (suite, bare):
        measure(steps, options.steps, device)
    for _ in range(options.rounds):
        times["suite"].append(measure(suite, options.steps, device))
        times["bare"].append(measure(bare, options.steps, device))
    ratios = [ours / theirs for ours, theirs in zip(times["suite"], times["bare"], strict=True)]
    return statistics.median(times["suite"]), statistics.median(times["bare"]), statistics.median(ratios)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=METHODS.names(), choices=METHODS.names(), metavar="NAME")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--nf", type=int, default=20, help="width of the online methods' ResNet-18")
    parser.add_argument("--nl", default="BN")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    print(f"{options.nl}, images of 32 px, {options.threads} threads\nmethod  suite ms  bare ms  ratio")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_images(root)
        for model in options.models:
            try:
                method, suite = suite_loop(model, root, options)
            except UserError as error:
                parser.error(str(error))
            figures = ratio(suite, bare_loop(method, device), options, device)
            print("{:6}  {:8.1f}  {:7.1f}  {:5.3f}".format(model, *figures), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
