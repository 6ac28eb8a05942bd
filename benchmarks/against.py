"""A training step of this checkout of the suite against that of another one.

    git worktree add ../other COMMIT
    python benchmarks/against.py ../other [--steps_of er_ace:BN derpp:AdaB2N] [--nf 20 64] [--precisions fp32 bf16]

Each checkout takes its steps in a process of its own, made by its own `benchmarks/step.py`: methods of one task after
another on images of 32 px, measured in the third task. The processes take turns, and their time on the processor is
taken, which other work on the machine changes less than that on the clock. The ratio is taken within a round, and its
median is printed. The other checkout computes in fp32.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
# Waits for numbers of steps, and answers with the milliseconds that each of them took.
CHILD = """
import argparse, inspect, json, sys, tempfile, time
from pathlib import Path
sys.path.insert(0, "benchmarks")
import step, torch
options = argparse.Namespace(**json.loads(sys.argv[1]))
device = torch.device("cpu")
torch.set_num_threads(options.threads)
if hasattr(step, "set_arithmetic"):
    step.set_arithmetic(device, options.precision, fast=False, threads=options.threads)
with tempfile.TemporaryDirectory() as folder:
    root = Path(folder)
    step.write_images(root)
    arguments = options.model, root, options
    if "words" in inspect.signature(step.make_training).parameters:  # in a former version it made them itself
        arguments = step.command(*arguments), root
    stages = step.measured_stages(step.make_training(*arguments))
    _, steps = next(stages)
    print("ready", flush=True)
    for line in sys.stdin:
        started = time.process_time()
        steps(int(line))
        print((time.process_time() - started) / int(line) * 1000, flush=True)
"""


class Checkout:
    """A checkout that takes steps of one kind when it is asked.

    Args:
        root: its folder.
        options: as of `benchmarks/step.py`.
    """

    def __init__(self, root: Path, options: dict[str, object]) -> None:
        command = [sys.executable, "-W", "ignore", "-c", CHILD, json.dumps(options)]
        self.child = subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._read()

    def measure(self, num_steps: int) -> float:
        """Milliseconds per step."""
        assert self.child.stdin is not None
        print(num_steps, file=self.child.stdin, flush=True)
        return float(self._read())

    def end(self) -> None:
        """Take no more."""
        self.child.communicate()

    def _read(self) -> str:
        assert self.child.stdout is not None
        line = self.child.stdout.readline()
        if not line:
            sys.exit(f"the steps ended with {self.child.wait()}")
        return line


def compare(options: argparse.Namespace, model: str, norm: str, nf: int) -> None:
    """Measure one kind of step and print a line for every precision."""
    settings = {"model": model, "nl": norm, "nf": nf, "threads": options.threads, "device": "cpu"}
    kinds = [(options.other, "fp32"), *((HERE, precision) for precision in options.precisions)]
    checkouts = [Checkout(root, settings | {"precision": precision}) for root, precision in kinds]
    times: list[list[float]] = [[] for _ in checkouts]
    for checkout in checkouts:
        checkout.measure(options.steps)
    for _ in range(options.rounds):
        for checkout, found in zip(checkouts, times, strict=True):
            found.append(checkout.measure(options.steps))
    for checkout in checkouts:
        checkout.end()
    other = times[0]
    for precision, ours in zip(options.precisions, times[1:], strict=True):
        ratio = statistics.median(own / former for own, former in zip(ours, other, strict=True))
        figures = f"{statistics.median(ours):9.1f} ms {statistics.median(other):9.1f} ms {ratio:7.2f}"
        print(f"{model:<8} {norm:<7} nf {nf:<4} {precision:<5} {figures}", flush=True)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("other", type=Path, metavar="CHECKOUT", help="folder of the other checkout")
    parser.add_argument("--steps_of", nargs="+", default=["er_ace:BN", "derpp:AdaB2N"], metavar="METHOD:NORM")
    parser.add_argument("--nf", nargs="+", type=int, default=[20, 64], help="widths of ResNet-18")
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"], help="of this checkout")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--steps", type=int, default=3, help="in each round")
    options = parser.parse_args()
    print(f"{options.threads} threads, {options.rounds} rounds of {options.steps} steps; here, there, ratio")
    for kind in options.steps_of:
        for nf in options.nf:
            compare(options, *kind.split(":"), nf)
    return 0


if __name__ == "__main__":
    sys.exit(main())
