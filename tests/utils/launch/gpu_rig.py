"""A fake `nvidia-smi` that plays the scene a test has set, and a clock that a test turns."""

import json
import os
import sys
from pathlib import Path
from typing import Any

_PROGRAM = """\
import json, os, pathlib, sys, time
folder = pathlib.Path(__file__).parent
scene = json.loads((folder / "scene.json").read_text())
with (folder / "calls.txt").open("a") as calls:
    calls.write(" ".join([str(os.getpid()), *sys.argv[1:]]) + chr(10))
if scene["hangs"]:
    time.sleep(120)
if "-L" in sys.argv:
    print(scene["listed"])
    sys.exit(0)
alone = sys.argv[sys.argv.index("-i") + 1] if "-i" in sys.argv else None
if alone is None or not scene["answers_alone"]:
    sys.stderr.write(scene["errors"])
    sys.stdout.buffer.write(scene["text"].encode("latin-1"))
if scene["lists"] or (alone and scene["answers_alone"]):
    columns = next(word for word in sys.argv if word.startswith("--query-gpu=")).partition("=")[2].split(",")
    for row in scene["rows"]:
        if alone is None or alone in (row["uuid"], row["index"]):
            print(", ".join(row.get(column, "0") for column in columns))
sys.exit(scene["code"])
"""


class FakeNvidiaSmi:
    """Puts itself on the PATH of this process and of its children."""

    def __init__(self, folder: Path, monkeypatch: Any) -> None:
        self.folder = folder
        program, command = folder / "program.py", folder / "nvidia-smi"
        program.write_text(_PROGRAM)
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -SE "{program}" "$@"\n')
        command.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
        self.play()

    def play(self, *rows: dict[str, str], **more: Any) -> None:
        """Set the scene: what is listed, and how `nvidia-smi` fails to list it."""
        scene = {
            "hangs": False,
            "text": "",
            "errors": "",
            "lists": True,
            "answers_alone": False,
            "code": 0,
            "listed": "",
        }
        (self.folder / "scene.json").write_text(json.dumps(scene | {"listed": ""} | more | {"rows": rows}))

    @property
    def calls(self) -> list[str]:
        """The process id and the words of each call so far, but for the one about modes that the first look makes."""
        path = self.folder / "calls.txt"
        return [call for call in path.read_text().splitlines() if "compute_mode" not in call] if path.exists() else []


def row(index: int, load: object = 0, used: object = 0, total: object = 40000, **more: str) -> dict[str, str]:
    """What `nvidia-smi` knows of a GPU: load in percent, memory in MiB."""
    figures = {"utilization.gpu": str(load), "memory.used": str(used), "memory.total": str(total)}
    modes = {"compute_mode": "Default", "mig.mode.current": "Disabled"}
    return {"index": str(index), "uuid": uuid(index), "name": "NVIDIA A100"} | figures | modes | more


def uuid(number: int) -> str:
    """The UUID of the fake GPU of that number."""
    return f"GPU-{number}a0b1c2d-0000-1111-2222-333344445555"


class Clock:
    """Seconds that pass only when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds
