"""Cost of a memory per training step, one insertion and one draw, at two capacities in the same process.

    python benchmarks/buffer.py

The rounds of the two memories alternate, so that both meet the same disturbances; the medians are compared. A ring
stores every row; the reservoirs stand where they store about half of the rows they are offered; a balance of classes
stores what is not of a largest class.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from utils.data.augment import Augmentation, Transform
from utils.data.batch import Batch
from utils.data.buffer import BUFFER_MODES, Memory, make_memory

CAPACITIES = (500, 50_000)
BATCH_SIZE = 10
NUM_TASKS = 5
STEPS_PER_ROUND = 20

RAW = torch.full((BATCH_SIZE, 3, 32, 32), 127, dtype=torch.uint8)
LABELS = torch.arange(BATCH_SIZE) % 7  # classes that cannot be equally large, so that some rows are always stored
LOGITS = torch.zeros(BATCH_SIZE, 10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200, help=f"rounds of {STEPS_PER_ROUND} steps [200]")
    parser.add_argument("--threads", type=int, default=1, help="threads of the CPU [1]")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.set_deterministic_debug_mode("error")
    print(f"insert {BATCH_SIZE} and draw {BATCH_SIZE} images of 3x32x32 with 10 logits, {arguments.threads} thread(s)")
    for mode in BUFFER_MODES:
        costs = measure(mode, arguments.rounds)
        shown = "  ".join(f"{capacity:>6} slots {costs[capacity]:6.1f} us/step" for capacity in CAPACITIES)
        print(f"{mode:<20}{shown}  ratio {costs[CAPACITIES[1]] / costs[CAPACITIES[0]]:.2f}")


def measure(mode: str, num_rounds: int) -> dict[int, float]:
    """Median microseconds per step, by capacity."""
    memories = [filled_memory(mode, capacity) for capacity in CAPACITIES]
    seconds = {memory.capacity: [] for memory in memories}
    for _ in range(num_rounds):
        for memory in memories:
            memory.num_seen = 2 * memory.capacity  # so that both reservoirs store the same share of the rows
            seconds[memory.capacity].append(time_round(memory))
    return {capacity: 1e6 * statistics.median(times) / STEPS_PER_ROUND for capacity, times in seconds.items()}


def filled_memory(mode: str, capacity: int) -> Memory:
    """A memory whose slots all hold a row; it does the least that any augmentation does."""
    transform = Transform(0, False, mean=(0.5,) * 3, std=(0.25,) * 3)
    augmentation = Augmentation(transform, {"memory": torch.Generator().manual_seed(0)})
    memory = make_memory(mode, capacity, num_tasks=NUM_TASKS, device="cpu", augmentation=augmentation, seed=0)
    for task in range(NUM_TASKS):
        for _ in range(capacity // NUM_TASKS // BATCH_SIZE):
            insert(memory, task)
    if len(memory) != capacity:
        raise RuntimeError(f"{len(memory)} of {capacity} slots are filled")
    return memory


def time_round(memory: Memory) -> float:
    """Seconds of one round."""
    started = time.perf_counter()
    for _ in range(STEPS_PER_ROUND):
        memory.draw(BATCH_SIZE)
        insert(memory, NUM_TASKS - 1)
    return time.perf_counter() - started


def insert(memory: Memory, task: int) -> None:
    """Offer one batch of the stream."""
    batch = Batch(RAW, LABELS, RAW, torch.full((BATCH_SIZE,), task), host_labels=LABELS)
    memory.insert(batch, logits=LOGITS)


if __name__ == "__main__":
    main()
