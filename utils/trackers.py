"""Weights & Biases, fed from the record. Its absence, failure or hanging never fails or delays a run.

Everything that touches wandb happens on a daemon thread behind a bounded queue; a run waits for it only at its end,
and not long.
"""

import netrc
import os
import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

QUEUE_SIZE = 10_000  # lines that may wait; a run writes a few a second at most
PATIENCE = 30.0  # seconds that the end of a run waits
DEFAULT_URL = "https://api.wandb.ai"


class NullTracker:
    """Tracks nothing."""

    def log(self, line: dict[str, Any]) -> None:
        """Ignore a line of `metrics.jsonl`."""

    def finish(self, result: dict[str, Any]) -> None:
        """Ignore the result."""

    def close(self, exit_code: int) -> None:
        """Nothing to close."""


class WandbTracker:
    """One run at Weights & Biases; a resumed run continues it.

    Args:
        settings: keyword arguments of `wandb.init`.
        say: prints one line.
    """

    def __init__(self, settings: dict[str, Any], say: Callable[[str], None]) -> None:
        self._settings = settings
        self._say = say
        self._events: queue.Queue[tuple[str, Any]] = queue.Queue(QUEUE_SIZE)
        self._given_up = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="wandb", daemon=True)
        self._thread.start()

    def log(self, line: dict[str, Any]) -> None:
        """Pass on a line of `metrics.jsonl`."""
        self._put("log", line)

    def finish(self, result: dict[str, Any]) -> None:
        """Pass on the result, the matrices among it, and close."""
        self._put("result", result)
        self.close(0)

    def close(self, exit_code: int) -> None:
        """End the run there; waits a bounded time for what was passed on."""
        self._put("close", exit_code)
        self._thread.join(PATIENCE)
        if self._thread.is_alive() and not self._given_up.is_set():
            self._give_up(f"did not answer within {PATIENCE:.0f} s")

    def _put(self, kind: str, content: Any) -> None:
        if self._given_up.is_set():
            return
        try:
            self._events.put_nowait((kind, content))
        except queue.Full:
            self._give_up("has fallen too far behind")

    def _give_up(self, reason: str) -> None:
        self._given_up.set()
        self._say(f"Weights & Biases {reason}; the run goes on without it, its record is complete")

    def _serve(self) -> None:
        try:
            import wandb

            run = wandb.init(**self._settings, settings=wandb.Settings(silent=True, console="off", init_timeout=60))
            while not self._given_up.is_set():
                kind, content = self._events.get()
                if kind == "close":
                    run.finish(exit_code=content)
                    return
                if kind == "log":
                    run.log(flatten(content), step=content["step"])
                else:
                    _log_result(run, content, wandb.Table)
        except BaseException as error:  # whatever it is, the run goes on
            if not self._given_up.is_set():
                self._give_up(f"failed ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})")


def flatten(line: dict[str, Any]) -> dict[str, float]:
    """A line of `metrics.jsonl` as chart names and numbers: `train/loss`, `class_il/task_1`, `class_il/mean`, …"""
    if line["kind"] == "train":
        return {f"train/{name}": value for name, value in line.items() if name not in ("kind", "step")}
    prefix = "" if line["kind"] == "evaluation" else f"{line['kind']}_"
    numbers = {"tasks_seen": line["task"] + 1}
    for scenario in ("class_il", "task_il"):
        accuracies = line.get(scenario)
        if accuracies:
            numbers[f"{prefix}{scenario}/mean"] = sum(accuracies) / len(accuracies)
            numbers |= {f"{prefix}{scenario}/task_{task}": value for task, value in enumerate(accuracies, 1)}
    return numbers


def _log_result(run: Any, result: dict[str, Any], table: Callable) -> None:
    total = result["counts"]["total"]
    for scenario, metrics in result["metrics"].items():
        for name, value in metrics.items():
            if isinstance(value, int | float):
                run.summary[f"final/{scenario}/{name}"] = value
        rows = [
            [f"after task {row}", *(None if right is None else 100 * right / of for right, of in zip(*pair, strict=True))]
            for row, pair in enumerate(zip(result["counts"][scenario], total, strict=True), 1)
        ]
        columns = ["", *(f"task {column}" for column in range(1, len(total) + 1))]
        run.log({f"matrix/{scenario}": table(columns=columns, data=rows)}, step=result["steps"])


def is_logged_in() -> bool:
    """Whether a key for Weights & Biases is at hand, without asking the network or importing wandb."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", DEFAULT_URL)).hostname
    file = os.environ.get("NETRC") or str(Path.home() / ".netrc")
    try:
        return netrc.netrc(file).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def make_tracker(
    mode: str,
    *,
    entity: str | None,
    project: str,
    name: str,
    group: str,
    run_id: str,
    config: dict[str, Any],
    folder: Path,
    say: Callable[[str], None],
) -> NullTracker | WandbTracker:
    """The tracker of a run.

    Args:
        mode: `auto` (online when logged in, otherwise disabled, which is said), `online`, `offline` or `disabled`.
        entity: None leaves it to wandb.
        project, name, group: as wandb knows them.
        run_id: the same id continues the same run.
        config: the run's configuration.
        folder: where wandb keeps its files.
        say: prints one line.
    """
    if mode == "auto":
        mode = "online" if is_logged_in() else "disabled"
        if mode == "disabled":
            say("Weights & Biases: not logged in, so disabled (`wandb login`, or --wandb_mode offline)")
    if mode == "disabled":
        return NullTracker()
    settings = {"mode": mode, "entity": entity, "project": project, "name": name, "group": group, "id": run_id}
    return WandbTracker(settings | {"resume": "allow", "config": config, "dir": str(folder)}, say)
