"""Kernel-launching calls of a training step with each normalization layer, on a device that is make-believe.

    python benchmarks/kernel_calls.py [--make_believe FOLDER] [--models NAME …] [--layers NAME …] [--nf N] [--shown N]

No GPU is needed: FOLDER, by default `../shared/gpu/make_believe`, has a module `fakecuda` whose tensors say that they
are on `cuda:0` and lie on the CPU. A call is an operation of the dispatcher that computes or copies on the device;
views and allocations are none. Counted is a step of the third task without the optimizer's, every layer in the batch
composition that the method has for it. What a GPU takes for a call, and how many kernels it makes of one, is not seen.
"""

import argparse
import collections
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from benchmarks.step import command, make_training, measured_stages, write_images
from utils.config.registry import METHODS, NORMS, ROOT

MAKE_BELIEVE = ROOT.parent / "shared" / "gpu" / "make_believe"
NO_KERNEL = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "lift_fresh", "squeeze_")


def launches(operation: str) -> bool:
    """Whether an operation, by its full name, computes or copies."""
    name, _, overload = operation.removeprefix("aten::").partition(".")
    schema = getattr(getattr(torch.ops.aten, name), overload or "default")._schema
    returned = [value.alias_info for value in schema.returns]
    is_view = any(alias is not None and not alias.is_write for alias in returned) or name == "_unsafe_view"
    return not is_view and name not in NO_KERNEL


@contextmanager
def without_step(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """The optimizer takes no step."""
    optimizer.step = lambda: None
    try:
        yield
    finally:
        del optimizer.step


def count(fakecuda: Any, model: str, settings: argparse.Namespace, root: Path) -> collections.Counter[str]:
    """Calls of one step, by operation."""
    words = [*command(model, root, settings), "--fused_norms", "off"]
    training = make_training(words, root)
    _, steps = next(measured_stages(training))
    fakecuda.OPS.clear()
    with without_step(training.method.optimizer):
        steps(1)
    return collections.Counter({name: number for name, number in fakecuda.OPS.items() if launches(name)})


def report(fakecuda: Any, model: str, options: argparse.Namespace, root: Path) -> None:
    """Count the calls of a method and print a line for each layer."""
    totals: dict[str, int] = {}
    for layer in dict.fromkeys(["BN", *options.layers]):
        calls = count(fakecuda, model, argparse.Namespace(nl=layer, nf=options.nf, device="cuda:0"), root)
        totals[layer] = calls.total()
        print(f"{model:<7} {layer:<6} {totals[layer]:>5}  {totals[layer] / totals['BN']:>11.2f}", flush=True)
        for name, number in calls.most_common(options.shown):
            print(f"{number:>20}  {name}")


def main() -> int:
    """Count and print."""
    layers = ["BN", *(name for name in NORMS.names() if name != "BN")]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--make_believe", type=Path, default=MAKE_BELIEVE, metavar="FOLDER")
    parser.add_argument("--models", nargs="+", default=["er_ace", "ft"], choices=METHODS.names(), metavar="NAME")
    parser.add_argument("--layers", nargs="+", default=layers, choices=layers, metavar="NAME", help="besides BN")
    parser.add_argument("--nf", type=int, default=32, help="width of the online methods' ResNet-18")
    parser.add_argument("--shown", type=int, default=0, help="show so many of the most frequent calls")
    options = parser.parse_args()
    if not (options.make_believe / "fakecuda.py").is_file():
        parser.error(f"no fakecuda.py in {options.make_believe}: give --make_believe the folder that has it")
    sys.path.append(str(options.make_believe))
    import fakecuda

    torch.set_num_threads(1)
    fakecuda.install()
    print(f"torch {torch.__version__}\nmethod  layer  calls  ratio to BN")
    with tempfile.TemporaryDirectory() as folder, fakecuda.Mode():
        write_images(Path(folder))
        for model in options.models:
            report(fakecuda, model, options, Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
