"""Records and cells to test the report with."""

import json
from pathlib import Path

from utils.records.collect import Run
from utils.records.content import RecordedConfig, Result
from utils.records.selection import select
from utils.records.state import RunState
from utils.report.tables import build_table

OFFLINE = {
    "protocol": "offline",
    "dataset": "seq-cifar100",
    "model": "ft",
    "backbone": "resnet32",
    "buffer_size": 2000,
    "epochs": 160,
    "batch_size": 64,
    "validation": 0.0,
    "forward": "joint",
}
ONLINE = {
    "protocol": "online",
    "dataset": "seq-digits",
    "model": "er",
    "backbone": "resnet18",
    "buffer_size": 200,
    "epochs": 1,
    "batch_size": 10,
    "validation": 0.0,
    "forward": "joint",
}


HOSTILE = "a|b\n<b> **n** [u](v) `c`"


def run(norm, seed, class_il, task_il=None, state="complete", reason="", command=(), folder=None, **values):
    """A run in memory with the given metrics; `values` change those of ONLINE."""
    result = None if class_il is None else Result({"class_il": class_il, "task_il": task_il or class_il})
    named = {**ONLINE, "nl": norm, "seed": seed, **values}
    folder = Path(folder or f"{norm}-{seed}")
    return Run(folder, named, RunState(state), reason, RecordedConfig(named), result, tuple(command))


def table_of(*runs, **more):
    """The table of some runs."""
    return build_table(select(runs), **more)


def published(ours):
    """A table in which a published figure stands beside ours, in percent."""
    metrics = {"A_f": ours, "A": [1.0] * 10}
    return table_of(run("TBBN", 0, metrics, **OFFLINE), run("LN", 0, metrics, **OFFLINE))


def counts(finals, total=100, learned=90):
    """Counts of a run of len(finals) tasks whose last row is `finals`, each task learned at `learned`."""
    num_tasks = len(finals)
    rows = [[learned if column <= row else None for column in range(num_tasks)] for row in range(num_tasks)]
    rows[-1] = list(finals)
    totals = [[total if column <= row else None for column in range(num_tasks)] for row in range(num_tasks)]
    return {"class_il": rows, "task_il": [list(row) for row in rows], "total": totals}


def write_record(folder, values, finals=None, command=("python", "utils/main.py"), failure=None):
    """A record on disk; complete if it has final accuracies."""
    folder.mkdir(parents=True)
    config = {"schema": 1, "values": values, "command": list(command)}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    if finals is not None:
        result = {"schema": 1, "counts": counts(finals), "untrained": None, "anytime": []}
        (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")
    if failure is not None:
        (folder / "failure.json").write_text(json.dumps({"schema": 1, "kind": failure}), encoding="utf-8")


def write_points(root, norm, seed, steps=(2, 3, 5, 6), right=(5, 8, 4, 6)):
    """A record of two tasks of 10 test images, evaluated inside each and at its end."""
    folder = root / "group" / f"{norm}-{seed}"
    write_record(folder, {**ONLINE, "nl": norm, "seed": seed, "eval_every": 2}, [40, 50])
    correct = [[number, None] for number in right[:2]] + [[number, number] for number in right[2:]]
    total = [[10, None], [10, None], [10, 10], [10, 10]]
    points = {"step": list(steps), "task": [0, 0, 1, 1], "images": [20, 30, 50, 60], "total": total}
    points |= {"class_il": correct, "task_il": total}
    path = folder / "result.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "points": points}))
