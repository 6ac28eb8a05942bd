"""Weights & Biases, fed from the record. Its absence, failure or hanging never fails or delays a run.

wandb replaces `sys.exit` and `sys.excepthook`, waits in exit handlers and holds the interpreter while it is imported.
So it lives in a process of its own, this file run as a module: a daemon thread of the run passes lines on to it from a
bounded queue, and whatever becomes of it ends with that process. When the run is killed, the process notices, ends the
run at Weights & Biases too, and is gone.
"""

import configparser
import contextlib
import json
import netrc
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from utils.registry import ROOT

QUEUE_SIZE = 10_000  # lines that may wait; a run writes a few a second at most
FINISH_SECONDS = 30.0  # that a complete run waits for its last lines to arrive
CLOSE_SECONDS = 5.0  # that a stopped run waits: whoever stops it, a cluster for example, does not wait long either
SERVER = "https://api.wandb.ai"


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
        settings: keyword arguments of `wandb.init`, which JSON can hold.
        say: prints one line; called by the run's own thread only.
    """

    def __init__(self, settings: dict[str, Any], say: Callable[[str], None]) -> None:
        self._say = say
        self._messages: queue.Queue[tuple[str, Any]] = queue.Queue(QUEUE_SIZE)
        self._process: subprocess.Popen | None = None
        self._failure: str | None = None  # why nothing arrives any more, left by the thread
        self._over = False
        self._put("start", settings)
        self._thread = threading.Thread(target=self._feed, name="tracker", daemon=True)
        self._thread.start()

    def log(self, line: dict[str, Any]) -> None:
        """Pass on a line of `metrics.jsonl`."""
        self._put("line", line)

    def finish(self, result: dict[str, Any]) -> None:
        """Pass on what `result.json` holds, and end; waits FINISH_SECONDS at most."""
        self._put("result", result)
        self._end(0, FINISH_SECONDS)

    def close(self, exit_code: int) -> None:
        """End without a result; waits CLOSE_SECONDS at most."""
        self._end(exit_code, CLOSE_SECONDS)

    def _put(self, kind: str, content: Any) -> None:
        if self._failure is not None:
            self._give_up(self._failure)
        if self._over:
            return
        try:
            self._messages.put_nowait((kind, content))
        except queue.Full:
            self._give_up(f"{QUEUE_SIZE} lines wait to be taken")

    def _end(self, exit_code: int, seconds: float) -> None:
        self._put("end", exit_code)
        if self._over:
            return
        self._thread.join(seconds)
        if self._thread.is_alive():
            self._give_up(f"not done within {seconds:.0f} s")
        elif self._failure is not None:
            self._give_up(self._failure)
        self._over = True

    def _give_up(self, reason: str) -> None:
        if self._over:
            return
        self._over = True
        if self._process is not None:
            self._process.kill()
        self._say(f"Weights & Biases is off: {reason} (the record has everything)")

    def _feed(self) -> None:
        """Body of the thread: start the process, pass on all messages, wait for its end."""
        try:
            self._process = _start_process()
            if self._over:  # given up while it started
                self._process.kill()
                return
            with contextlib.suppress(BrokenPipeError), self._process.stdin as pipe:
                kind = None
                while kind != "end":
                    kind, content = self._messages.get()
                    pipe.write(json.dumps([kind, content], default=str) + "\n")
                    pipe.flush()
            answer = self._process.stdout.read().strip()
            if self._process.wait() != 0:
                self._failure = answer or f"its process ended with exit code {self._process.returncode}"
        except Exception as error:
            self._failure = _describe(error)


def make_tracker(
    mode: str,
    *,
    entity: str | None,
    project: str,
    name: str,
    group: str,
    run_id: str,
    config: Mapping[str, Any],
    folder: Path,
    say: Callable[[str], None],
) -> NullTracker | WandbTracker:
    """The tracker of a run.

    Args:
        mode: `online`, `offline`, `disabled`, or `auto`: what $WANDB_MODE says, else online when logged in and disabled
            when not, which is said.
        entity: None leaves it to wandb.
        project, name, group: as Weights & Biases shows them.
        run_id: the same id continues the same run.
        config: the run's configuration.
        folder: where wandb keeps its files, in a folder `wandb`.
        say: prints one line.
    """
    if mode == "auto":
        mode = _automatic_mode()
        if mode is None:
            say("Weights & Biases: not logged in, so nothing is tracked there (`wandb login`, or --wandb_mode offline)")
    if mode in (None, "disabled"):
        return NullTracker()
    settings = {"mode": mode, "entity": entity, "project": project, "name": name, "group": group, "id": run_id}
    return WandbTracker(settings | {"config": dict(config), "dir": str(folder.resolve())}, say)


def is_logged_in() -> bool:
    """Whether wandb would find a key or token, by its environment variables and files, without importing it."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    settings = _wandb_settings()
    if settings.get("api_key"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL") or settings.get("base_url") or SERVER).netloc
    candidates = [os.environ["NETRC"]] if os.environ.get("NETRC") else ["~/.netrc", "~/_netrc"]
    for candidate in candidates:
        with contextlib.suppress(OSError, RuntimeError, ValueError, netrc.NetrcParseError):
            _, _, key = netrc.netrc(Path(candidate).expanduser()).hosts.get(host, (None, None, None))
            if key:
                return True
    return False


def _automatic_mode() -> str | None:
    mode = os.environ.get("WANDB_MODE", "").lower()
    if mode in ("online", "offline", "dryrun", "disabled"):
        return "offline" if mode == "dryrun" else mode
    return "online" if is_logged_in() else None


def _wandb_settings() -> dict[str, str]:
    """The settings that wandb's own commands keep for the user."""
    parser = configparser.ConfigParser(interpolation=None)
    with contextlib.suppress(OSError, RuntimeError, ValueError, configparser.Error):
        parser.read(Path(os.environ.get("WANDB_CONFIG_DIR", "~/.config/wandb")).expanduser() / "settings")
    return dict(parser["default"]) if parser.has_section("default") else {}


def _describe(error: BaseException) -> str:
    first_line = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {first_line}"


# -- What is sent -----------------------------------------------------------------------------------------------------


def chart_values(line: Mapping[str, Any]) -> dict[str, float]:
    """A line of `metrics.jsonl` as numbers under the names of their charts.

    Losses are `train/loss` and so on. Accuracies are `class_il/mean`, `class_il/task_1`, …, the same for `task_il`;
    those measured inside a task are `anytime_class_il/…`.
    """
    kind = line["kind"]
    if kind == "train":
        return {f"train/{name}": value for name, value in line.items() if name not in ("kind", "step")}
    prefix = "" if kind == "evaluation" else f"{kind}_"
    values = {f"{prefix}tasks_seen": line["task"] + 1}
    for name, accuracies in line.items():
        if isinstance(accuracies, list) and accuracies:
            values[f"{prefix}{name}/mean"] = sum(accuracies) / len(accuracies)
            values |= {f"{prefix}{name}/task_{task}": value for task, value in enumerate(accuracies, 1)}
    return values


def summary_values(result: Mapping[str, Any]) -> dict[str, float]:
    """Final metrics as `final/class_il/A_f` and so on, the number of steps and the timings."""
    values = {
        f"final/{scenario}/{name}": value
        for scenario, metrics in result["metrics"].items()
        for name, value in metrics.items()
        if isinstance(value, int | float)
    }
    return (
        values | {"final/steps": result["steps"]} | {f"final/{key}": value for key, value in result["timings"].items()}
    )


def accuracy_table(counts: Mapping[str, Any], scenario: str) -> tuple[list[str], list[list[float | None]]]:
    """The accuracy matrix in percent as columns and rows: after which task, on which task; None where not measured."""
    rows = [
        [after, *(None if correct is None else 100 * correct / total for correct, total in zip(*pair, strict=True))]
        for after, pair in enumerate(zip(counts[scenario], counts["total"], strict=True), 1)
    ]
    return ["after task", *(f"task {task}" for task in range(1, len(rows) + 1))], rows


# -- The process of its own -------------------------------------------------------------------------------------------


def _start_process() -> subprocess.Popen:
    """Start `serve`, in a session of its own so that a Ctrl-C meant for the run does not reach it."""
    # System metrics and the program's name are to be those of the run.
    of_this_run = {"WANDB__STATS_PID": str(os.getpid()), "WANDB_PROGRAM": sys.argv[0]}
    return subprocess.Popen(
        [sys.executable, "-m", "utils.trackers"],
        cwd=ROOT,
        env=os.environ | of_this_run,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        encoding="utf-8",
        start_new_session=True,
    )


def serve() -> None:
    """Track what comes in at standard input; a failure goes out at standard output in one line. Does not return."""
    messages: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
    commands, answers = _take_over(0, "r"), _take_over(1, "w")
    threading.Thread(target=_receive, args=(commands, messages), daemon=True).start()
    try:
        _track(messages)
    except BaseException as error:  # SystemExit is no reason to be silent either
        print(_describe(error), file=answers, flush=True)
        os._exit(1)  # wandb's exit handlers may wait forever
    os._exit(0)


def _take_over(descriptor: int, mode: str) -> IO[str]:
    """Keep a standard stream for ourselves: wandb and the processes that it starts get an empty one."""
    own = os.fdopen(os.dup(descriptor), mode, encoding="utf-8")
    with Path(os.devnull).open("r+b") as nothing:
        os.dup2(nothing.fileno(), descriptor)
    return own


def _receive(commands: IO[str], messages: queue.SimpleQueue) -> None:
    """Pass on what comes in; when no more comes, which may be the run's violent end, see to it that all ends soon."""
    with contextlib.suppress(ValueError):
        for line in commands:
            messages.put(json.loads(line))
    messages.put(("end", 1))
    time.sleep(FINISH_SECONDS)
    os._exit(1)


def _track(messages: queue.SimpleQueue) -> None:
    _, settings = messages.get()
    # Else logs, and copies of the tables for a later upload, gather in the user's home with every run.
    os.environ.setdefault("WANDB_DATA_DIR", f"{settings['dir']}/wandb")
    os.environ.setdefault("WANDB_CACHE_DIR", f"{settings['dir']}/wandb")
    import wandb

    run = wandb.init(**settings, resume="allow", settings=wandb.Settings(silent=True, console="off"))
    while True:
        kind, content = messages.get()
        if kind == "line":
            run.log(chart_values(content), step=content["step"])
        elif kind == "result":
            _track_result(run, content, wandb.Table)
        else:
            run.finish(exit_code=content)
            wandb.teardown(exit_code=content)
            return


def _track_result(run: Any, result: Mapping[str, Any], make_table: Callable) -> None:
    run.summary.update(summary_values(result))
    matrices = {}
    for scenario in result["metrics"]:
        columns, rows = accuracy_table(result["counts"], scenario)
        matrices[f"matrix/{scenario}"] = make_table(columns=columns, data=rows)
    # At the step that wandb has reached: it drops what comes with an earlier one, as the last step of a run may be that
    # was stopped behind it and resumed.
    run.log(matrices)


if __name__ == "__main__":
    serve()
