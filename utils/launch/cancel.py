"""`run.py cancel`: stop the launchers of a group from another terminal. Imports no torch."""

import time
from collections.abc import Sequence

from utils.errors import COMPLETE, UserError
from utils.launch.arguments import group_parser, places_of
from utils.launch.presence import Launcher, launchers_of

_LOOK_EVERY = 0.2  # seconds


def cancel(words: Sequence[str]) -> int:
    """Ask the launchers of a group to stop, and wait until they have; their runs save their state."""
    options = group_parser("cancel", "Stop the launchers of a group; their runs save their state.").parse_args(words)
    where = places_of(options)
    folder = where.results_dir / where.group
    launchers = launchers_of(folder)
    here = [launcher for launcher in launchers if launcher.is_here]
    elsewhere = sorted({launcher.machine for launcher in launchers} - {launcher.machine for launcher in here})
    if not here:
        on = f", but on {', '.join(elsewhere)}: cancel it there" if elsewhere else "; name the group with --group"
        raise UserError(f"no launcher is at {folder} on this machine{on}")
    for launcher in here:
        launcher.ask_to_stop()
        print(
            f"launcher {launcher.process} is asked to stop: its runs save their state; once more ends them", flush=True
        )
    for launcher in here:
        _wait_for(launcher)
    if elsewhere:
        print(f"others are at this group on {', '.join(elsewhere)}: cancel them there")
    return COMPLETE


def _wait_for(launcher: Launcher) -> None:
    while launcher.is_alive():
        time.sleep(_LOOK_EVERY)
    print(f"launcher {launcher.process} has stopped; the same command goes on from there")
