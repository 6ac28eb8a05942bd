"""Weights & Biases, fed from the record. Its absence, failure or hanging never fails or delays a run.

wandb replaces `sys.exit` and `sys.excepthook`, waits in exit handlers and holds the interpreter while it is imported.
So it lives in a process of its own (`utils/records/wandb_process.py`): a daemon thread of the run passes lines on to it
from a bounded queue, and whatever becomes of it ends with that process.
"""

import base64
import configparser
import contextlib
import json
import netrc
import os
import queue
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from utils.config.registry import ROOT
from utils.records.wandb_process import BEGUN, RECEIVED, describe

BEGIN_SECONDS = 30.0  # that a process may take to begin; one that has not when its run ends is given up
QUEUE_SIZE = 10_000  # lines that may wait; a run writes a few a second at most
FINISH_SECONDS = 30.0  # after the last line of a complete run, in which it may arrive
CLOSE_SECONDS = 5.0  # that a run waits at its end: another run wants its place, and a cluster does not wait long either
SERVER = "https://api.wandb.ai"
LONGEST_TAG = 64  # characters; wandb refuses a run with a longer one


class Tracker(Protocol):
    """Shows a run's numbers elsewhere."""

    def log(self, line: dict[str, Any]) -> None:
        """A line of `metrics.jsonl`."""
        ...

    def finish(self, result: dict[str, Any]) -> None:
        """The content of `result.json`; the run is complete."""
        ...

    def close(self, exit_code: int) -> None:
        """The run ends without a result."""
        ...


class NullTracker:
    """Tracks nothing."""

    def log(self, line: dict[str, Any]) -> None:
        """Ignore a line of `metrics.jsonl`."""

    def finish(self, result: dict[str, Any]) -> None:
        """Ignore the result."""

    def close(self, exit_code: int) -> None:
        """Nothing to close."""


class _Messenger:
    """Passes messages on to the process that holds wandb.

    Args:
        say: prints one line; called by the thread that puts and ends only.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._messages: queue.Queue[tuple[str, Any]] = queue.Queue(QUEUE_SIZE)
        self._process: subprocess.Popen | None = None
        self._failure: str | None = None  # why nothing arrives any more, left by the thread
        self._over = False
        self._is_delivered = False  # whether the process has got everything, and ends by itself in time
        self._thread = threading.Thread(target=self._feed, name="tracker", daemon=True)
        self._thread.start()

    def put(self, kind: str, content: Any) -> None:
        """Pass on a message, without waiting."""
        if self._failure is not None:
            self._give_up(self._failure)
        if self._over:
            return
        try:
            self._messages.put_nowait((kind, content))
        except queue.Full:
            self._give_up(f"{QUEUE_SIZE} lines are waiting to be sent")

    def end(self, exit_code: int, seconds: float, may_go_on: bool = False) -> bool:
        """Pass on the end of the run, and wait for the process; whether everything has arrived.

        Args:
            exit_code: of the run.
            seconds: to wait at most; a process that is not done by then is killed.
            may_go_on: whether a process that has received everything is left to finish by itself instead.
        """
        self.put("end", exit_code)
        if self._over:
            return False
        self._thread.join(seconds)
        if self._thread.is_alive() and may_go_on and self._is_delivered:
            self._over = True
            self._say(
                "Weights & Biases: the last lines are still being sent; what has not arrived within "
                f"{FINISH_SECONDS:g} s is only in the record"
            )
            return False
        if self._thread.is_alive():
            self._give_up(f"not done within {seconds:.0f} s")
        elif self._failure is not None:
            self._give_up(self._failure)
        arrived, self._over = not self._over, True
        return arrived

    def _give_up(self, reason: str) -> None:
        if self._over:
            return
        self._over = True
        if self._process is not None:
            self._process.kill()
        self._say(f"Weights & Biases tracking stopped: {reason} (the record has everything)")

    def _feed(self) -> None:
        """Body of the thread: start the process, pass on all messages, wait for its end."""
        started = time.monotonic()
        try:
            self._process = _start_process()
            if self._over:  # given up while it started
                self._process.kill()
                return
            assert self._process.stdin is not None  # a pipe
            with contextlib.suppress(BrokenPipeError), self._process.stdin as pipe:
                kind = None
                while kind != "end":
                    kind, content = self._messages.get()
                    pipe.write(json.dumps([kind, content], default=str) + "\n")
                    pipe.flush()
            self._failure = self._hear(self._process, started)
        except Exception as error:
            self._failure = describe(error)

    def _hear(self, process: subprocess.Popen, started: float) -> str | None:
        """Read the answers of a process until it ends; why it failed, None if it has not."""
        assert process.stdout is not None  # a pipe
        has_begun, failure = False, ""
        for line in map(str.strip, process.stdout):
            if line == BEGUN:
                has_begun = True
            elif line != RECEIVED:
                failure = line
            elif not has_begun and time.monotonic() - started > BEGIN_SECONDS:
                process.kill()
                failure = f"it did not start within {BEGIN_SECONDS:.0f} s"
            else:
                self._is_delivered = True
        return (failure or f"its process ended with exit code {process.returncode}") if process.wait() else None


class WandbTracker:
    """One run at Weights & Biases; a resumed run continues it.

    Args:
        settings: keyword arguments of `wandb.init`, which JSON can hold.
        say: prints one line; called by the run's own thread only.
    """

    def __init__(self, settings: dict[str, Any], say: Callable[[str], None]) -> None:
        self._say = say
        self._settings = settings
        self._messenger = _Messenger(say)
        self._messenger.put("start", settings)

    def log(self, line: dict[str, Any]) -> None:
        """Pass on a line of `metrics.jsonl`."""
        self._messenger.put("line", line)

    def finish(self, result: dict[str, Any]) -> None:
        """Pass on what `result.json` holds, and end; waits CLOSE_SECONDS at most.

        What has not arrived by then gets FINISH_SECONDS in all, while the run is over already.
        """
        self._messenger.put("result", result)
        self._messenger.end(0, CLOSE_SECONDS, may_go_on=True)
        self._say_where()

    def close(self, exit_code: int) -> None:
        """End without a result; waits CLOSE_SECONDS at most."""
        self._messenger.end(exit_code, CLOSE_SECONDS)

    def _say_where(self) -> None:
        """Say where an offline run is stored, and how to upload it."""
        if self._settings["mode"] != "offline":
            return
        found = sorted(Path(self._settings["dir"]).glob(f"wandb/offline-run-*-{self._settings['id']}"))
        for path in found[-1:]:
            self._say(f"Weights & Biases: stored offline; upload it with: wandb sync {shlex.quote(str(path))}")


@dataclass(frozen=True)
class Summary:
    """What a summary run shows.

    Attributes:
        tables: by name, columns and rows; a column holds texts only, or numbers and None.
        images: PNG files by title.
    """

    tables: Mapping[str, tuple[list[str], list[list[Any]]]]
    images: Mapping[str, bytes]


def send_summaries(summaries: Sequence[tuple[dict[str, Any], Summary]], say: Callable[[str], None]) -> bool:
    """Make one run of each summary; waits FINISH_SECONDS for each at most, and fails in one line.

    Returns:
        Whether all of them have arrived.

    Args:
        summaries: settings as `run_settings` gives them, and what to show; the same id updates the same run.
        say: prints one line.
    """
    messenger = _Messenger(say)
    for settings, summary in summaries:
        images = {title: base64.b64encode(image).decode("ascii") for title, image in summary.images.items()}
        messenger.put("start", settings)
        messenger.put("summary", {"tables": summary.tables, "images": images})
    return messenger.end(0, FINISH_SECONDS * len(summaries))


def make_tracker(mode: str, *, say: Callable[[str], None], **settings: Any) -> Tracker:
    """The tracker of a run.

    Args:
        mode: as for `mode_in_force`.
        say: prints one line.
        settings: arguments of `run_settings`.
    """
    in_force = mode_in_force(mode, say)
    return NullTracker() if in_force is None else WandbTracker(run_settings(in_force, **settings), say)


def mode_in_force(mode: str, say: Callable[[str], None]) -> str | None:
    """`online` or `offline`; None if nothing is tracked.

    Args:
        mode: `online`, `offline`, `disabled`, or `auto`: what $WANDB_MODE says, else online when logged in and disabled
            when not, which is said.
        say: prints one line.
    """
    in_force = _automatic_mode() if mode == "auto" else mode
    if in_force is None:
        say("Weights & Biases: not logged in, so nothing is tracked (use `wandb login` or --wandb_mode offline)")
    return None if in_force == "disabled" else in_force


def run_settings(
    mode: str,
    *,
    entity: str | None,
    project: str,
    name: str,
    group: str,
    run_id: str,
    config: Mapping[str, Any],
    folder: Path,
    job_type: str = "run",
    tags: Sequence[str] = (),
    notes: str | None = None,
) -> dict[str, Any]:
    """Keyword arguments of `wandb.init`.

    Args:
        mode: `online` or `offline`.
        entity: None leaves it to wandb.
        project, name, group, job_type, notes: as Weights & Biases shows them.
        run_id: the same id continues the same run.
        config: the run's configuration.
        folder: where wandb keeps its files, in a folder `wandb`.
        tags: cut to the length that wandb takes.
    """
    shown = {"entity": entity, "project": project, "name": name, "group": group, "job_type": job_type, "notes": notes}
    return {
        "mode": mode,
        **shown,
        "id": run_id,
        "tags": [tag[:LONGEST_TAG] for tag in tags],
        "config": dict(config),
        "dir": str(folder.resolve()),
    }


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


def _start_process() -> subprocess.Popen:
    """Start `serve`, in a session of its own so that a Ctrl-C meant for the run does not reach it."""
    # System metrics and the program's name are to be those of the run.
    of_this_run = {"WANDB__STATS_PID": str(os.getpid()), "WANDB_PROGRAM": sys.argv[0]}
    return subprocess.Popen(
        [sys.executable, "-m", "utils.records.wandb_process", str(FINISH_SECONDS)],
        cwd=ROOT,
        env=os.environ | of_this_run,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        encoding="utf-8",
        start_new_session=True,
    )
