"""Cost of a step when the memory and the number of tasks grow, for methods and normalization layers, on the CPU.

    python benchmarks/growth.py [--models NAME …] [--layers NAME …] [--threads N] [--rounds N] [--steps N] [--nf N]

Compared are memories of 500 and of 50,000 images, both full, in the last of five tasks; and the last one of five and
of a hundred tasks over the same 200 classes. Both runs are in one process, their rounds alternate, the ratio is taken
within a round, and its median is printed. Counted is the processor's time, which other programs disturb less. A small
network shows what a large one would hide.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch

from benchmarks.step import Steps, compare, make_training, measured_stages
from utils.config.registry import METHODS
from utils.data.batch import Batch
from utils.run.training import Training

LIMIT = 1.05
NUM_CLASSES, IMAGES_PER_CLASS, SIDE = 200, 50, 32
SMALL_MEMORY, LARGE_MEMORY = 500, 50_000
FEW_TASKS, MANY_TASKS = 5, 100
ROWS_PER_INSERTION = 100


def write_images(root: Path) -> None:
    """Random images for `seq-arrays`."""
    random = np.random.default_rng(0)
    for split, size in (("train", IMAGES_PER_CLASS), ("test", 1)):
        shape = (NUM_CLASSES * size, SIDE, SIDE, 3)
        np.save(root / f"{split}_x.npy", random.integers(0, 256, shape, dtype=np.uint8))
        np.save(root / f"{split}_y.npy", np.arange(NUM_CLASSES).repeat(size))


def steps_of(model: str, layer: str, root: Path, options: argparse.Namespace, capacity: int, num_tasks: int) -> Steps:
    """What takes steps in the last task of a run."""
    words = f"--model {model} --dataset seq-arrays --n_tasks {num_tasks} --data_root {root} --nl {layer} --lr 0.001"
    words += " --epochs 1 --flip 1 --crop_padding 4 --device cpu"
    method = METHODS.get(model)
    words += f" --backbone resnet18 --nf {options.nf}" if options.nf else ""
    if layer == "AdaB2N":
        words += " --kappa 0.4"
    if method.uses_memory:
        words += f" --buffer_size {capacity}"
    words += "".join(f" --{name} 0.5" for name in ("alpha", "beta") if name in {each.name for each in method.options})
    if method.keeps_exemplars:
        words += " --exemplar_selection random --batch_size 16"  # of which a task of a hundred has several
    training = make_training(words.split(), root)
    if method.uses_memory and not method.keeps_exemplars:
        fill(training, capacity)
    return next(measured_stages(training, first=num_tasks - 1))[1]


def fill(training: Training, capacity: int) -> None:
    """Fill a memory with rows of the first task."""
    memory, logits = training.method.memory, torch.zeros(ROWS_PER_INSERTION, NUM_CLASSES)
    raw = torch.full((ROWS_PER_INSERTION, 3, SIDE, SIDE), 127, dtype=torch.uint8)
    zeros = torch.zeros(ROWS_PER_INSERTION, dtype=torch.int64)
    batch = Batch(raw, zeros, raw, zeros, host_labels=zeros)
    extras = {"logits": logits} if "alpha" in training.config.used() else {}
    while len(memory) < capacity:
        memory.insert(batch, **extras)


def report(model: str, layer: str, root: Path, options: argparse.Namespace) -> None:
    """Print the ratios of a method and a layer."""
    kinds = {"tasks 5 -> 100": [(SMALL_MEMORY, FEW_TASKS), (SMALL_MEMORY, MANY_TASKS)]}
    if METHODS.get(model).uses_memory and not METHODS.get(model).keeps_exemplars:
        kinds["memory 500 -> 50000"] = [(SMALL_MEMORY, FEW_TASKS), (LARGE_MEMORY, FEW_TASKS)]
    for title, (small, large) in kinds.items():
        few, many = (steps_of(model, layer, root, options, *kind) for kind in (small, large))
        after, before, ratio = compare(many, few, options, torch.device("cpu"), time.process_time)
        note = f"  above {LIMIT:.2f}" if ratio > LIMIT else ""
        print(f"{model:7} {layer:7} {title:20} {before:8.2f} ms {after:8.2f} ms  {ratio:5.3f}{note}", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["er_ace", "derpp", "ft", "lucir"], metavar="NAME")
    parser.add_argument("--layers", nargs="+", default=["BN", "TBBN", "AdaB2N"], metavar="NAME")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--nf", type=int, help="ResNet-18 of this width in place of the published network")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    network = f"ResNet-18 of width {options.nf}" if options.nf else "published networks"
    print(f"{network}, images of {SIDE} px, {options.threads} threads")
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder))
        for model in options.models:
            for layer in options.layers:
                report(model, layer, Path(folder), options)


if __name__ == "__main__":
    main()
