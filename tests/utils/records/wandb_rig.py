"""What the tests of the tracker share: a run to track, a stand-in for wandb, a reader of what the real one wrote."""

import json
import os
import signal
import struct
import sys
import threading
import time
from pathlib import Path

from utils.records import trackers
from utils.records.trackers import Summary, make_tracker, run_settings

LOSSES = {"loss": 2.5, "norm_loss": 0.125, "lr": 0.03}
LINES = [
    *({"kind": "train", "step": step, "task": 0, "epoch": 0} | LOSSES for step in range(50, 301, 50)),
    {"kind": "anytime", "step": 200, "task": 1, "class_il": [30.0, 40.0], "mean": {"class_il": 35.0}},
    {"kind": "evaluation", "step": 300, "task": 1, "class_il": [25.0, 45.0], "task_il": [75.0, 95.0]}
    | {"mean": {"class_il": 35.0, "task_il": 85.0}},
]
LINES.sort(key=lambda line: line["step"])
RESULT = {
    "identity": "0123",
    "metrics": {
        "class_il": {"A": [50.0, 35.0], "A_f": 35.0, "forgetting": 25.0, "FWT": None},
        "task_il": {"A": [80.0, 85.0], "A_f": 85.0, "forgetting": 5.0, "FWT": None},
    },
    "counts": {"class_il": [[5, None], [1, 9]], "task_il": [[8, None], [3, 19]], "total": [[10, None], [4, 20]]},
    "steps": 300,
    "timings": {"training_seconds": 12.5},
    "peak_memory": {"host_bytes": 1000},
}


def make(folder, said, mode="offline", **more):
    values = {"entity": None, "project": "seq-digits", "name": "a name", "group": "a group", "run_id": "fedcba98"}
    values |= {"config": {"lr": 0.03, "milestones": (3, 5), "notes": "größer", "nf": None}}
    values |= {"tags": ["a study", "t" * 70]}
    return make_tracker(mode, **(values | {"folder": folder, "say": said.append} | more))


def make_summary(folder, project="seq-digits", run_id="aaaabbbb", image=None):
    """What `send_summaries` takes for one run."""
    names = {"entity": None, "project": project, "name": "a summary", "group": "g", "run_id": run_id}
    more = {"job_type": "summary", "notes": "größer", "config": {"group": "g"}}
    settings = run_settings("offline", **names, **more, folder=folder)
    tables = {"table/A_f": (["norm", "d er 200"], [["BN", "50.00 ± 1.00"]]), "figures": (["n", "p"], [[3, None]])}
    return settings, Summary(tables, {"plots/a column": image} if image else {})


FAKE = """
import json, os, sys, time
class Settings(dict): pass
class Run:
    summary = {}
    def log(self, values, step=None): LOG
    def finish(self, exit_code):
        FINISH
        with open(os.environ["FAKE_FOLDER"] + "/finished", "w") as file: file.write(str(exit_code))
class Table:
    def __init__(self, columns, data): pass
class Image:
    def __init__(self, data): pass
def init(**settings):
    with open(os.environ["FAKE_FOLDER"] + "/started", "w") as file: file.write(str(os.getpid()))
    print("noise"); os.system("echo noise"); sys.stderr.write("noise")
    INIT
    return Run()
def teardown(exit_code=None): pass
"""


def install_fake(folder, monkeypatch, init="pass", log="pass", finish="pass", text=FAKE):
    folder.mkdir()
    text = text.replace("INIT", init).replace("LOG", log).replace("FINISH", finish)
    (folder / "wandb.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setenv("FAKE_FOLDER", str(folder))
    monkeypatch.setattr(trackers, "CLOSE_SECONDS", 60.0)  # a busy machine is slow
    return folder


def state_of_the_process():
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGWINCH)}
    streams = (sys.stdout, sys.stderr, sys.stdout.write, sys.stderr.write)
    return {
        "exits": (sys.exit, sys.excepthook, threading.excepthook),
        "handlers": handlers,
        "streams": streams,
        "environment": {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"},
        "folder": Path.cwd(),
        "wandb": "wandb" in sys.modules,
        "threads": threading.active_count(),
    }


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.02)


def is_gone(process_id):
    status = Path(f"/proc/{process_id}/status")
    try:
        return "State:\tZ" in status.read_text()
    except OSError:
        return True


# -- Reading what wandb wrote -----------------------------------------------------------------------------------------


def records(path):
    """The records of a .wandb file: a LevelDB log (7 bytes of header in its first block) of protocol buffers."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, position, data = path.read_bytes(), 7, b""
    while position < len(content):
        left_in_block = 32768 - position % 32768
        if left_in_block < 7:
            position += left_in_block
            continue
        _, length, kind = struct.unpack_from("<IHB", content, position)
        data += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, last part
            yield Record.FromString(data)
            data = b""


def items(updates):
    """Keys and values of wandb's update messages, those of a table by a path with dots."""
    return {each.key or ".".join(each.nested_key): json.loads(each.value_json) for each in updates}


class Tracked:
    """What a finished offline run left on the disk."""

    def __init__(self, folder):
        (self.path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
        self.history, self.summary, self.exit_code, self.run = [], {}, None, None
        for record in records(self.path):
            kind = record.WhichOneof("record_type")
            if kind == "run":
                self.run = record.run
            elif kind == "history":
                self.history.append(items(record.history.item))
            elif kind == "summary":
                self.summary |= items(record.summary.update)
            elif kind == "exit":
                self.exit_code = record.exit.exit_code

    def table(self, key):
        return json.loads(self.file(key).read_text())

    def file(self, key):
        (file,) = (row[f"{key}.path"] for row in self.history if f"{key}.path" in row)
        return self.path.parent / "files" / file
