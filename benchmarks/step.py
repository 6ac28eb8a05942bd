"""Cost of the suite's own step against a bare loop of the same arithmetic, for every stage of every method.

    python benchmarks/step.py [--models NAME …] [--threads N] [--rounds N] [--nf N] [--nl NORM] [--precision bf16]

Measured is the third task, in which every teacher is asked; the last one where a method trains in that alone. The bare
loop has the same network, optimizer, batch sizes, memory format and precision, on plain tensors that lie ready: as many
forwards, those of the teacher included where the backbone learns, a cross-entropy, backward to what the stage trains,
step. It has no stream, no augmentation, no memory, no meter, no checkpoint, and nothing of the method's own loss but
the distances between maps where it compares them with its teacher's, which are passes over maps. Rounds alternate; the
ratio is taken within a round, and its median is printed.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from backbone.kernels import choose_norm_kernels
from backbone.norm import BatchContext, batch_context
from models.base import Stage
from utils.config.configuration import configure
from utils.config.registry import METHODS
from utils.data.budget import plan_stages
from utils.data.loaders import Loaders
from utils.data.plan import Pairs, Plain, StreamSizes, part_sizes
from utils.errors import UserError
from utils.main import make_augmentation, make_method, make_stream
from utils.optimizer import optimizer_settings
from utils.records.record import Record
from utils.records.trackers import NullTracker
from utils.run.environment import set_arithmetic
from utils.run.progress import ProgressReport, Screen
from utils.run.steps import Capture, make_capture
from utils.run.steps import Steps as MadeSteps
from utils.run.stopping import StopRequest
from utils.run.training import Position, Sinks, Training

LIMIT = 1.05
MEASURED_TASK = 2  # the first in which EEIL's main stage distills
IMAGES_PER_CLASS = 400
NUM_REPLAYED = 500
NUM_EXEMPLARS = 1920  # all of the third task's are there, and fill batches of 64 and of 128 rows
WARM_UP = 3

Steps = Callable[[int], None]


# -- the suite ---------------------------------------------------------------------------------------------------------


def write_images(root: Path) -> None:
    """CIFAR-10's shapes, random pixels."""
    random = np.random.default_rng(0)
    (root / "cifar10").mkdir()
    for split, size in (("train", IMAGES_PER_CLASS), ("test", 10)):
        images = random.integers(0, 256, (10 * size, 32, 32, 3), dtype=np.uint8)
        np.save(root / "cifar10" / f"{split}_x.npy", images)
        np.save(root / "cifar10" / f"{split}_y.npy", np.repeat(np.arange(10), size))


def command(model: str, root: Path, options: argparse.Namespace) -> list[str]:
    """The run that is measured."""
    words = f"--model {model} --dataset seq-cifar10 --data_root {root} --nl {options.nl} --lr 0.03".split()
    method = METHODS.get(model)
    if method.protocol == "online":
        words += ["--nf", str(options.nf)]
    if method.uses_memory:
        words += ["--buffer_size", str(NUM_EXEMPLARS if method.keeps_exemplars else NUM_REPLAYED)]
    if "precision" in options:
        words += ["--precision", options.precision]
    return [*words, "--device", options.device]


def make_training(words: list[str], root: Path, captured: bool = False) -> Training:
    """A run at its beginning, from its command line and the folder of its data.

    Args:
        words: the command line.
        root: the folder.
        captured: whether its steps are captured as runs capture them, which the bare loop's are not.
    """
    config = configure(words)
    dataset = config.parts.dataset(**config.chosen(config.parts.dataset.options))
    arrays = dataset.load(root)
    device = torch.device(config.device)
    choose_norm_kernels(config.fused_norms, config.parts.norm, config.precision, device, print)
    augmentation = make_augmentation(config, dataset, arrays, device)
    stream = make_stream(config, arrays, device)
    planned = plan_stages(config, StreamSizes.of(stream))
    method = make_method(config, stream, augmentation, device)
    record, screen = Record(Path(tempfile.mkdtemp(dir=root)) / config.model).open(), Screen(verbose=False)
    sinks = Sinks(record, NullTracker(), screen, ProgressReport(record, screen, stream.num_tasks, None), "benchmark")
    loaders = Loaders(stream, method.memory, augmentation, config.batch_size, config.seed)
    capture = make_capture(config, method.uncapturable(), device, screen.say) if captured else Capture()
    return Training(method, stream, planned, loaders, augmentation, config, sinks, StopRequest(), capture)


def measured_stages(training: Training, first: int = MEASURED_TASK) -> Iterator[tuple[Stage, Steps]]:
    """Every stage of a task, when it has begun, and what takes steps in it; a few are taken before.

    The task is the first one from `first` on in which the method trains.
    """
    method, num_tasks, facts = training.method, training.stream.num_tasks, (training.config, training.planned.sizes)
    last = next(task for task in range(first, num_tasks) if method.stages(*facts, task))
    for task in range(last + 1):
        training.position = Position(task=task)
        method.begin_task(task)
        for number, stage in enumerate(method.stages(*facts, task)):
            method.begin_stage(stage)
            method.begin_epoch(stage, 0)
            steps = suite_steps(training, stage, number)
            steps(WARM_UP)
            if task == last:
                yield stage, steps
        if task < last:
            method.end_task(task)


def suite_steps(training: Training, stage: Stage, number: int) -> Steps:
    """The suite's training in a stage, from the first batch on whenever it is called, and again after the last."""
    loader = training.loaders.of(stage.data, (training.position.task, number))
    make = MadeSteps(training.method, training.device, training.capture)

    def steps(count: int) -> None:
        while count:
            training.position.batch = 0
            for batch in islice(training._batches(loader, stage, loader.num_batches), count):
                training._step(make, batch, stage.trains)
                count -= 1

    return steps


# -- the bare loop -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Forward:
    """One forward on tensors that lie ready.

    Attributes:
        images, labels: of the rows.
        context: what the norm layers are told of them, None for nothing.
    """

    images: Tensor
    labels: Tensor
    context: BatchContext | None

    def described(self, network: torch.nn.Module) -> AbstractContextManager[None]:
        """Tells the norm layers of the rows."""
        return nullcontext() if self.context is None else batch_context(network, self.context)


def rows_of_forwards(method: Any, stage: Stage) -> list[tuple[int, int | None]]:
    """Current and memory rows of each forward with gradients; None where they are not told apart."""
    config, data = method.config, stage.data
    if isinstance(data, Pairs):
        return [part_sizes(config.batch_size, data.ratio)]
    if isinstance(data, Plain):
        return [(config.batch_size, None) if data.rows.tasks else (0, config.batch_size)]
    if not method.uses_memory:
        return [(config.batch_size, None)]
    num_draws = {"derpp": 2}.get(method.name, 1)
    if config.forward == "joint":
        return [(config.batch_size, num_draws * config.minibatch_size)]
    return [(config.batch_size, None), *[(config.minibatch_size, None)] * num_draws]


def make_forward(training: Training, num_current: int, num_memory: int | None) -> Forward:
    """Random rows of the classes seen."""
    method, number = training.method, num_current + (num_memory or 0)
    images = torch.randn(number, 3, 32, 32, device=training.device)
    images = images.contiguous(memory_format=training.augmentation.memory_format)
    labels = torch.randint(0, 2 * (method.task + 1), (number,), device=training.device)
    if num_memory is None:
        return Forward(images, labels, None)
    tasks = torch.arange(number) % method.task
    tasks[:num_current] = method.task
    return Forward(images, labels, BatchContext(method.task, tasks, num_current))


def bare_steps(training: Training, stage: Stage) -> Steps:
    """The arithmetic of a stage that has begun."""
    method = training.method
    forwards = [make_forward(training, *rows) for rows in rows_of_forwards(method, stage)]
    step = importance_step(method, forwards) if stage.name == "importance" else training_step(method, stage, forwards)

    def steps(count: int) -> None:
        for _ in range(count):
            step()

    return steps


def training_step(method: Any, stage: Stage, forwards: list[Forward]) -> Callable[[], None]:
    """Forwards, the teacher's after the network's own, backward and a step of the optimizer."""
    network = method.network
    trains_backbone = {*map(id, network.backbone.parameters())} & {*map(id, method.trained(stage))}
    teacher = getattr(method, "teacher", None) if trains_backbone else None  # whoever learns asks it
    kind, settings = optimizer_settings(method.config)
    optimizer = kind(list(method.trained(stage)), lr=stage.lr, **settings)

    def loss_of(forward: Forward) -> Tensor:
        if teacher is not None and method.reads_maps:
            with forward.described(network):
                outputs = network.outputs(forward.images, maps=True)
            with torch.no_grad():
                taught = teacher.outputs(forward.images, maps=True)
            distances = method.distill(outputs, taught, forward.labels)
            return cross_entropy(outputs.scores, forward.labels) + sum(distances.values())
        with forward.described(network):
            scores = network(forward.images)
        if teacher is not None:
            with torch.no_grad():
                teacher(forward.images)
        return cross_entropy(scores, forward.labels)

    def step() -> None:
        with network.autocast():
            loss = sum(loss_of(forward) for forward in forwards)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def importance_step(method: Any, forwards: list[Forward]) -> Callable[[], None]:
    """One forward, and backward to the maps of the backbone: no parameter gets a gradient."""
    network, (forward,) = method.network, forwards

    def step() -> None:
        with forward.described(network):
            features, maps = network.backbone.forward_maps(forward.images)
        torch.autograd.grad(cross_entropy(network.head(features), forward.labels), maps)

    return step


# -- measuring ---------------------------------------------------------------------------------------------------------


def measure(steps: Steps, number: int, device: torch.device, clock: Callable[[], float]) -> float:
    """Milliseconds per step, by a clock in seconds."""
    started = clock()
    steps(number)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (clock() - started) / number * 1000


def compare(
    suite: Steps,
    bare: Steps,
    options: argparse.Namespace,
    device: torch.device,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[float, float, float]:
    """Median milliseconds of both, and the median of their ratios, round by round."""
    times: dict[Steps, list[float]] = {suite: [], bare: []}
    for steps in times:
        measure(steps, options.steps, device, clock)
    for number in range(options.rounds):
        for steps in (suite, bare) if number % 2 else (bare, suite):
            times[steps].append(measure(steps, options.steps, device, clock))
    ratios = [ours / theirs for ours, theirs in zip(times[suite], times[bare], strict=True)]
    return statistics.median(times[suite]), statistics.median(times[bare]), statistics.median(ratios)


def report(model: str, root: Path, options: argparse.Namespace) -> None:
    """Measure the stages of a method and print a line for each."""
    training = make_training(command(model, root, options), root)
    for stage, suite in measured_stages(training):
        device = torch.device(options.device)
        figures = compare(suite, bare_steps(training, stage), options, device)
        note = f"  above {LIMIT:.2f}" if figures[-1] > LIMIT else ""
        print("{:7} {:11} {:8.1f}  {:7.1f}  {:5.3f}{}".format(model, stage.name, *figures, note), flush=True)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=METHODS.names(), choices=METHODS.names(), metavar="NAME")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--nf", type=int, default=20, help="width of the online methods' ResNet-18")
    parser.add_argument("--nl", default="BN")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    set_arithmetic(torch.device(options.device), options.precision, fast=False, threads=options.threads)
    print(f"{options.nl}, {options.precision}, images of 32 px, {options.threads} threads")
    print("method  stage       suite ms  bare ms  ratio")
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder))
        try:
            for model in options.models:
                report(model, Path(folder), options)
        except UserError as error:
            parser.error(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
