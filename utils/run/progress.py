"""What a run shows: one live bar per task on a terminal, plain lines a few a minute elsewhere."""

import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

PLAIN_INTERVAL = 20.0  # seconds between plain lines
LIVE_INTERVAL = 0.1  # seconds between updates of the live bar


class Screen:
    """Says lines, and shows how far a task is.

    Args:
        verbose: False leaves out everything that is said with `detail`, and the progress.
        console: where to print; the standard output by default.
    """

    def __init__(self, verbose: bool = True, console: Console | None = None) -> None:
        self.log: Callable[[str], None] | None = None  # a second place for every said line
        self._verbose = verbose
        self._console = console or Console(highlight=False, soft_wrap=True)
        self._bar: Progress | None = None
        self._title = ""
        self._total = 0
        self._first = (0, 0.0)  # step and time at the task's (or the resumed task's) start
        self._shown = 0.0

    def say(self, text: str, detail: bool = False) -> None:
        """Print a line, and log it."""
        if self._verbose or not detail:
            self._console.print(text, markup=False)
        if self.log is not None:
            self.log(text)

    def begin(self, title: str, done: int, total: int) -> None:
        """A task of `total` steps starts, or goes on after `done` of them."""
        self._title, self._total = title, total
        self._first, self._shown = (done, time.monotonic()), time.monotonic()
        if self._verbose and self._console.is_terminal and total > done:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=None),
                MofNCompleteColumn(),
                TextColumn("loss {task.fields[loss]}  {task.fields[speed]} steps/s  ETA"),
                TimeRemainingColumn(),
                console=self._console,
                expand=True,
            )
            self._bar.add_task(title, total=total, completed=done, loss="–", speed="–")
            self._bar.start()

    def rename(self, title: str) -> None:
        """Call what is under way something else, such as by its epoch."""
        self._title = title
        if self._bar:
            self._bar.update(self._bar.task_ids[0], description=title)

    def advance(self, done: int, loss: float | None) -> None:
        """Show how far the task is, if it is time to; `loss` is the last one read."""
        now = time.monotonic()
        interval = LIVE_INTERVAL if self._bar else PLAIN_INTERVAL
        if now - self._shown < interval and not (self._bar and done == self._total):
            return
        self._shown = now
        speed = (done - self._first[0]) / max(now - self._first[1], 1e-9)
        shown_loss = "–" if loss is None else f"{loss:.4f}"
        if self._bar:
            self._bar.update(self._bar.task_ids[0], completed=done, loss=shown_loss, speed=f"{speed:.1f}")
        else:
            eta = _minutes((self._total - done) / max(speed, 1e-9))
            progress = f"step {done}/{self._total}  loss {shown_loss}  {speed:.1f} steps/s  ETA {eta}"
            self.say(f"{self._title}  {progress}", detail=True)

    def end(self) -> None:
        """The task's last step is done, or the run stops in it."""
        if self._bar:
            self._bar.stop()
            self._bar = None


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 3600}:{int(seconds) // 60 % 60:02}:{int(seconds) % 60:02}"
