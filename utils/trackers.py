"""Weights & Biases, fed from the record. Its absence, failure or hanging never fails or delays a run.

wandb replaces `sys.exit` and `sys.excepthook`, may interrupt the main thread, and waits for its uploads when the
interpreter ends. So it lives in a process of its own, `python -m utils.trackers`, which reads lines of JSON; a daemon
thread starts that process and feeds it from a bounded queue. If the run is killed, its end closes the process's input,
which marks the run as failed there and ends the process.
"""

import configparser
import contextlib
import json
import netrc
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parent.parent
MODES = ("online", "offline", "disabled")
QUEUE_SIZE = 10_000  # lines that may wait; a run writes a few a second at most
PATIENCE = 30.0  # seconds that the end of a run waits
INIT_TIMEOUT = 60  # seconds that the server has to answer for the first time
DEFAULT_SERVER = "https://api.wandb.ai"


class Tracker(Protocol):
    """Where a run is shown besides its record. No method raises; all are called from one thread."""

    def log(self, line: dict[str, Any]) -> None:
        """Pass on a line of `metrics.jsonl`."""

    def finish(self, result: dict[str, Any]) -> None:
        """Pass on the content of `result.json`, and close."""

    def close(self, exit_code: int) -> None:
        """End the run there; waits a bounded time for what was passed on. Nothing is taken afterwards."""


class NullTracker:
    """Tracks nothing."""

    def log(self, line: dict[str, Any]) -> None:
        """Nothing to pass on."""

    def finish(self, result: dict[str, Any]) -> None:
        """Nothing to pass on."""

    def close(self, exit_code: int) -> None:
        """Nothing to close."""


class WandbTracker:
    """One run at Weights & Biases; a resumed run with the same id continues it.

    Args:
        settings: keyword arguments of `wandb.init`.
        say: prints one line; called at most once, by the thread that calls the tracker.
    """

    def __init__(self, settings: dict[str, Any], say: Callable[[str], None]) -> None:
        self._say = say
        self._lines: queue.Queue[str] = queue.Queue(QUEUE_SIZE)
        self._failure: str | None = None
        self._closed = False
        self._process: subprocess.Popen | None = None
        self._put("init", {"settings": settings, "patience": PATIENCE})
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
        """End the run there; waits at most `PATIENCE` seconds for what was passed on."""
        if self._closed:
            return
        self._put("close", exit_code)
        self._thread.join(PATIENCE)
        if self._thread.is_alive():
            self._fail(f"did not finish within {PATIENCE:.0f} s")
        self._give_up_if_failed()
        self._closed = True

    def _put(self, kind: str, content: Any) -> None:
        self._give_up_if_failed()
        if self._closed:
            return
        try:
            self._lines.put_nowait(json.dumps([kind, content], default=str) + "\n")
        except queue.Full:
            self._fail("has fallen too far behind")

    def _fail(self, reason: str) -> None:
        self._failure = self._failure or reason

    def _give_up_if_failed(self) -> None:
        if self._failure is None or self._closed:
            return
        self._closed = True
        if self._process is not None:
            self._process.kill()
        self._say(f"Weights & Biases {self._failure}; the run does without it, its record has everything")

    def _serve(self) -> None:
        try:
            self._process = start_process()
            with contextlib.suppress(BrokenPipeError):
                self._feed(self._process.stdin)
            failure = self._process.stdout.read().strip()
            if self._process.wait() != 0:
                self._fail(failure or f"ended with exit code {self._process.returncode}")
        except (OSError, ValueError) as error:
            self._fail(f"could not be started ({error})")

    def _feed(self, sink: Any) -> None:
        with sink:
            line = ""
            while not line.startswith('["close"'):
                line = self._lines.get()
                sink.write(line)
                sink.flush()


def start_process() -> subprocess.Popen:
    """The process that holds wandb: lines of JSON on its standard input, at the end its failure, if any, as output.

    In a session of its own, so that Ctrl-C reaches the run alone; the resources that wandb watches are the run's.
    """
    return subprocess.Popen(
        [sys.executable, "-m", "utils.trackers"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
        env=os.environ | {"WANDB__STATS_PID": str(os.getpid())},
        text=True,
        encoding="utf-8",
        start_new_session=True,
    )


def hold_wandb() -> int:
    """Body of that process; its exit code."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the end of its input ends it, so that nothing logged is lost
    report = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what wandb and its children print goes nowhere
    try:
        track(sys.stdin)
    except BaseException as error:
        with contextlib.suppress(OSError):
            report.write(describe(error))
            report.flush()
        os._exit(1)  # wandb's exit handlers may wait for ever
    report.close()
    return 0


def track(lines: Iterable[str]) -> None:
    """Replay the lines of JSON, pairs of kind and content, into a run of wandb; it failed if they end without `close`.

    Raises:
        Exception: whatever wandb raises.
    """
    import wandb

    events = map(json.loads, lines)
    _, start = next(events)
    run = wandb.init(
        **start["settings"], settings=wandb.Settings(silent=True, console="off", init_timeout=INIT_TIMEOUT)
    )
    exit_code = 1
    for kind, content in events:
        if kind == "log":
            run.log(flatten(content), step=content["step"])
        elif kind == "result":
            run.summary.update(summarise(content))
            # Without a step: one that a resumed run has been through already would be dropped.
            run.log({name: wandb.Table(**table) for name, table in tables(content).items()})
        else:
            exit_code = content
    watchdog = threading.Timer(start["patience"], os._exit, args=(1,))
    watchdog.daemon = True
    watchdog.start()
    run.finish(exit_code=exit_code)


def describe(error: BaseException) -> str:
    """One line about a failure of wandb."""
    if isinstance(error, ModuleNotFoundError) and error.name == "wandb":
        return "is not installed (pip install wandb)"
    first_line = (str(error).strip() or "no message").splitlines()[0]
    return f"failed ({type(error).__name__}: {first_line})"


def flatten(line: dict[str, Any]) -> dict[str, float]:
    """A line of `metrics.jsonl` as names of charts and numbers; tasks count from 1.

    `train/loss`, `train/task`, …; of an evaluation `class_il/mean`, `class_il/task_1`, …, other kinds as a prefix.
    """
    kind = line["kind"]
    numbers = {}
    for name, value in line.items():
        if name == "task":
            numbers[f"{kind}/task"] = value + 1
        elif isinstance(value, list):
            title = name if kind == "evaluation" else f"{kind}/{name}"
            numbers[f"{title}/mean"] = sum(value) / len(value)
            numbers |= {f"{title}/task_{task}": each for task, each in enumerate(value, 1)}
        elif name not in ("kind", "step"):
            numbers[f"{kind}/{name}"] = value
    return numbers


def summarise(result: dict[str, Any]) -> dict[str, float]:
    """The final metrics in percent and the timings, as `final/class_il/A_f`, `timings/training_seconds`, …"""
    final = {
        f"final/{scenario}/{name}": value
        for scenario, metrics in result["metrics"].items()
        for name, value in metrics.items()
        if isinstance(value, int | float)
    }
    return final | {f"timings/{name}": value for name, value in result["timings"].items()}


def tables(result: dict[str, Any]) -> dict[str, dict[str, list]]:
    """The accuracy matrices in percent, None where not measured: columns and rows by name of the table."""
    totals = result["counts"]["total"]
    columns = ["after task", *(f"task {task}" for task in range(1, len(totals) + 1))]
    return {
        f"matrix/{scenario}": {
            "columns": columns,
            "data": [
                [task, *(_percent(*pair) for pair in zip(correct, total, strict=True))]
                for task, (correct, total) in enumerate(zip(result["counts"][scenario], totals, strict=True), 1)
            ],
        }
        for scenario in result["metrics"]
    }


def _percent(correct: int | None, total: int | None) -> float | None:
    return None if correct is None else 100 * correct / total


def is_logged_in() -> bool:
    """Whether credentials for Weights & Biases are at hand, without asking the network or importing wandb."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    try:
        known = netrc.netrc(Path(os.environ.get("NETRC") or "~/.netrc").expanduser()).hosts
    except (OSError, ValueError, RuntimeError, netrc.NetrcParseError):
        return False
    return urlsplit(_server()).netloc in known


def _server() -> str:
    """Address of the server, from the environment or wandb's own settings."""
    settings = configparser.ConfigParser(interpolation=None)
    with contextlib.suppress(OSError, ValueError, RuntimeError, configparser.Error):
        settings.read(Path(os.environ.get("WANDB_CONFIG_DIR") or "~/.config/wandb").expanduser() / "settings")
    return os.environ.get("WANDB_BASE_URL") or settings.get("default", "base_url", fallback=DEFAULT_SERVER)


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
) -> Tracker:
    """The tracker of a run.

    Args:
        mode: `online`, `offline`, `disabled`, or `auto`: what $WANDB_MODE says, otherwise online when logged in and
            disabled, which is said, when not.
        entity: None leaves it to wandb.
        project, name, group: as wandb knows them.
        run_id: the same id continues the same run.
        config: the run's configuration.
        folder: the run's, where wandb keeps its files.
        say: prints one line.
    """
    if mode == "auto":
        mode = _automatic_mode(say)
    if mode == "disabled":
        return NullTracker()
    settings = {"mode": mode, "entity": entity, "project": project, "name": name, "group": group, "id": run_id}
    return WandbTracker(settings | {"resume": "allow", "config": config, "dir": str(folder.resolve())}, say)


def _automatic_mode(say: Callable[[str], None]) -> str:
    if os.environ.get("WANDB_MODE") in MODES:
        return os.environ["WANDB_MODE"]
    if is_logged_in():
        return "online"
    say("Weights & Biases: not logged in, so disabled (`wandb login`, or --wandb_mode offline)")
    return "disabled"


if __name__ == "__main__":
    sys.exit(hold_wandb())
