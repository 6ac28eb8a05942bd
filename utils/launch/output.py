"""The launcher's standard output where its reader has gone."""

import os
import sys


def discard_output() -> None:
    """Send what is still printed nowhere, so that the interpreter does not complain at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
