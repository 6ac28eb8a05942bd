"""The process that holds wandb: run as a module by `utils/records/trackers.py`, it tracks what comes at standard input.

When the run is killed, the process notices, ends the run at Weights & Biases too, and is gone. When the run has ended
before everything has arrived, it goes on for a bounded time.
"""

import base64
import contextlib
import io
import json
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

BEGUN, RECEIVED = "begun", "received"  # what goes out when a run has begun there, and when all of it has come in

# -- What is sent -----------------------------------------------------------------------------------------------------


def chart_values(line: Mapping[str, Any]) -> dict[str, float]:
    """A line of `metrics.jsonl` as numbers under the names of their charts.

    Tasks and epochs count from 1.

    Losses are `train/loss` and so on. Accuracies are `class_il/mean`, `class_il/task_1`, …, the same for `task_il`;
    those measured inside a task are `anytime_class_il/…`.
    """
    kind = line["kind"]
    if kind == "train":
        counted = {name: line[name] + 1 for name in ("task", "epoch") if name in line}
        values = {name: value for name, value in line.items() if name not in ("kind", "step", "stage")} | counted
        return {f"train/{name}": value for name, value in values.items()}
    prefix = "" if kind == "evaluation" else f"{kind}_"
    values = {f"{prefix}tasks_seen": line["task"] + 1}
    for name, mean in line["mean"].items():
        values[f"{prefix}{name}/mean"] = mean
        measured = ((task, value) for task, value in enumerate(line[name], 1) if value is not None)
        values |= {f"{prefix}{name}/task_{task}": value for task, value in measured}
    return values


def summary_values(result: Mapping[str, Any]) -> dict[str, float]:
    """Final metrics as `final/class_il/A_f` and so on, the number of steps, the timings and the peak of memory."""
    values = {
        f"final/{scenario}/{name}": value
        for scenario, metrics in result["metrics"].items()
        for name, value in metrics.items()
        if isinstance(value, int | float)
    }
    taken = result["timings"] | {f"peak_memory_{name}": value for name, value in result.get("peak_memory", {}).items()}
    return values | {"final/steps": result["steps"]} | {f"final/{name}": value for name, value in taken.items()}


def accuracy_table(counts: Mapping[str, Any], scenario: str) -> tuple[list[str], list[list[float | None]]]:
    """The accuracy matrix in percent as columns and rows: after which task, on which task; None where not measured."""
    rows = [
        [after, *(None if correct is None else 100 * correct / total for correct, total in zip(*pair, strict=True))]
        for after, pair in enumerate(zip(counts[scenario], counts["total"], strict=True), 1)
    ]
    return ["after task", *(f"task {task}" for task in range(1, len(rows) + 1))], rows


# -- The process of its own -------------------------------------------------------------------------------------------


def serve(finish_seconds: float) -> None:
    """Track what comes in at standard input; BEGUN, RECEIVED or a failure go out at standard output, each a line.

    Does not return.

    Args:
        finish_seconds: that each run gets for its last lines to arrive when no more comes in.
    """
    messages: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
    commands, answers = _take_over(0, "r"), _take_over(1, "w")

    def answer(line: str) -> None:
        with contextlib.suppress(OSError):  # the run may be over
            print(line, file=answers, flush=True)

    threading.Thread(target=_receive, args=(commands, messages, answer, finish_seconds), daemon=True).start()
    try:
        _track(messages, answer)
    except BaseException as error:  # SystemExit is no reason to be silent either
        answer(describe(error))
        os._exit(1)  # wandb's exit handlers may wait forever
    os._exit(0)


def _take_over(descriptor: int, mode: str) -> IO[str]:
    """Keep a standard stream for this process, and give wandb and the processes that it starts an empty one."""
    own = os.fdopen(os.dup(descriptor), mode, encoding="utf-8")
    with Path(os.devnull).open("r+b") as nothing:
        os.dup2(nothing.fileno(), descriptor)
    return own


def _receive(
    commands: IO[str], messages: queue.SimpleQueue, answer: Callable[[str], None], finish_seconds: float
) -> None:
    """Pass on what comes in; when no more comes, as when the run was killed, end this process after a bounded time."""
    num_runs = 0
    with contextlib.suppress(ValueError):
        for line in commands:
            message = json.loads(line)
            num_runs += message[0] == "start"
            messages.put(message)
    messages.put(("end", 1))
    answer(RECEIVED)
    time.sleep(finish_seconds * num_runs)
    os._exit(1)


def _track(messages: queue.SimpleQueue, answer: Callable[[str], None]) -> None:
    run: Any = None
    while True:
        kind, content = messages.get()
        if kind == "start":
            run = _start_run(content, former=run)
            answer(BEGUN)
        elif kind == "line":
            run.log(chart_values(content), step=content["step"])
        elif kind == "result":
            _track_result(run, content)
        elif kind == "summary":
            _track_summary(run, content)
        else:
            _end_runs(run, content)
            return


def _start_run(settings: dict[str, Any], former: Any) -> Any:
    if former is not None:
        former.finish(exit_code=0)
    # Else logs, and copies of the tables for a later upload, gather in the user's home with every run.
    os.environ.setdefault("WANDB_DATA_DIR", f"{settings['dir']}/wandb")
    os.environ.setdefault("WANDB_CACHE_DIR", f"{settings['dir']}/wandb")
    import wandb

    return wandb.init(**settings, resume="allow", settings=wandb.Settings(silent=True, console="off"))


def _end_runs(run: Any, exit_code: int) -> None:
    if run is None:
        return
    import wandb

    run.finish(exit_code=exit_code)
    wandb.teardown(exit_code=exit_code)


def _track_result(run: Any, result: Mapping[str, Any]) -> None:
    import wandb

    run.summary.update(summary_values(result))
    matrices: dict[str, Any] = {}
    for scenario in result["metrics"]:
        columns, rows = accuracy_table(result["counts"], scenario)
        matrices[f"matrix/{scenario}"] = wandb.Table(columns=[*columns], data=rows)
    # At the step that wandb has reached: it drops what comes with an earlier one, as the last step of a run may be that
    # was stopped behind it and resumed.
    run.log(matrices)


def _track_summary(run: Any, summary: Mapping[str, Any]) -> None:
    import wandb

    shown: dict[str, Any] = {
        name: wandb.Table(columns=columns, data=rows) for name, (columns, rows) in summary["tables"].items()
    }
    for title, encoded in summary["images"].items():
        shown[title] = wandb.Image(_decode_image(encoded))
    run.log(shown)


def _decode_image(encoded: str) -> Any:
    from PIL import Image

    return Image.open(io.BytesIO(base64.b64decode(encoded)))


def describe(error: BaseException) -> str:
    """An error in one line."""
    first_line = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {first_line}"


if __name__ == "__main__":
    serve(float(sys.argv[1]))
