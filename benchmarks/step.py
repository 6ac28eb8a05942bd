"""Cost of the suite's own ER-ACE step against a bare loop of the same arithmetic, in one process.

    python benchmarks/step.py [--threads N] [--rounds N] [--nf N] [--nl NORM]

The bare loop has the same network, optimizer, batches and draws as plain tensors that lie ready: no stream, no
augmentation, no memory, no meter, no checkpoint. Rounds alternate; the ratio of the medians is printed.
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

from models.er_ace import kept_classes
from utils.configuration import configure
from utils.errors import UserError
from utils.main import make_augmentation, make_method, make_stream
from utils.record import Record
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
    for split, size in (("train", 400), ("test", 10)):
        np.save(root / f"{split}_x.npy", random.integers(0, 256, (10 * size, 32, 32, 3), dtype=np.uint8))
        np.save(root / f"{split}_y.npy", np.repeat(np.arange(10), size))


def suite_loop(root: Path, options: argparse.Namespace):
    """The suite's training in its second task; gives a function that takes n steps."""
    config = configure(
        f"--model er_ace --dataset seq-arrays --data_root {root} --nl {options.nl} --nf {options.nf} --lr 0.03 "
        f"--buffer_size 500 --crop_padding 4 --flip --device {options.device}".split()
    )
    dataset = config.parts.dataset(**config.chosen(config.parts.dataset.options))
    arrays = dataset.load(root)
    device = torch.device(options.device)
    augmentation = make_augmentation(config, dataset, arrays, device)
    stream = make_stream(config, dataset, arrays, device)
    method = make_method(config, stream, augmentation, device)
    outlets = Outlets(Record(root / "record").open(), NullTracker(), Silence(), "benchmark")
    training = Training(method, stream, augmentation, config, outlets, StopRequest())
    for task in range(2):
        method.begin_task(task)
        training.position.task = task
        stage = method.stages(task)[0]
        method.begin_stage(stage)
        training.position.batch = 0
        batches = training._batches(stage)
        for _ in range(3):
            training._step(next(batches))

    def steps(number: int) -> None:
        training.position.batch = 0
        batches = training._batches(stage)
        for _ in range(number):
            training._step(next(batches))

    return method, steps


def bare_loop(method, device: torch.device):
    """The same arithmetic on tensors that lie ready."""
    network, size = method.network, 10
    images, replayed = (torch.randn(size, 3, 32, 32, device=device) for _ in range(2))
    labels, replayed_labels = (torch.randint(2, 4, (size,), device=device) for _ in range(2))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.03)
    seen = torch.arange(10, device=device) < 4

    def steps(number: int) -> None:
        for _ in range(number):
            logits, replayed_logits = network(images), network(replayed)
            present = torch.zeros_like(seen).index_fill_(0, labels, True)
            masked = logits.masked_fill(~kept_classes(present, seen), torch.finfo(logits.dtype).min)
            loss = cross_entropy(masked, labels) + cross_entropy(replayed_logits, replayed_labels)
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


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--nf", type=int, default=20)
    parser.add_argument("--nl", default="BN", help="a layer that is trained with separate forwards")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_images(root)
        try:
            method, suite = suite_loop(root, options)
        except UserError as error:
            parser.error(str(error))
        if method.joint:
            parser.error(f"--nl {options.nl} is trained in a joint forward; the bare loop has separate ones")
        bare = bare_loop(method, device)
        times: dict[str, list[float]] = {"suite": [], "bare": []}
        for steps in (suite, bare):
            measure(steps, options.steps, device)
        for _ in range(options.rounds):
            times["suite"].append(measure(suite, options.steps, device))
            times["bare"].append(measure(bare, options.steps, device))
    medians = {name: statistics.median(values) for name, values in times.items()}
    ratios = [suite / bare for suite, bare in zip(times["suite"], times["bare"], strict=True)]
    print(f"ER-ACE, {options.nl}, ResNet-18 of width {options.nf}, 10 + 10 images of 32 px, {options.threads} threads")
    print(f"suite {medians['suite']:.1f} ms   bare {medians['bare']:.1f} ms   ratio {statistics.median(ratios):.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
