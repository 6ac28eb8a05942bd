"""Small runs in this process, and what there is to compare of them."""

import json

from utils.config.registry import METHODS
from utils.main import main

OFFLINE = {"backbone": "resnet18", "epochs": 2, "batch_size": 8}


class Killed(BaseException):
    """Ends a run where it stands, as SIGKILL does: nothing of the suite catches it."""


def starter(data_root, results_dir):
    """Starts a small run; gives the exit code."""

    def run(*words, results=results_dir, method="er_ace", norm="BN", **options):
        memory = {"buffer_size": 20} if METHODS.get(method).uses_memory else {}
        values = {"model": method, "dataset": "seq-arrays", "nl": norm, "n_tasks": 3, "nf": 4, "lr": 0.05}
        values |= memory | {"data_root": data_root, "results_dir": results, "threads": 1, "device": "cpu"}
        values |= {"log_every": 3, "wandb_mode": "disabled"}
        values |= {"alpha": 0.5} if method in ("der", "derpp") else {}
        values |= {"beta": 0.5} if method == "derpp" else {}
        values |= OFFLINE if METHODS.get(method).protocol == "offline" or options.get("protocol") == "offline" else {}
        values |= {"second_epochs": 1} if any(o.name == "second_epochs" for o in METHODS.get(method).options) else {}
        values |= options
        return main([*(word for name, value in values.items() for word in (f"--{name}", str(value))), *words])

    return run


def only_folder(results):
    (config,) = results.rglob("config.json")
    return config.parent


def result_of(results):
    return json.loads((only_folder(results) / "result.json").read_text())


def outcome(results):
    """What two runs of one configuration must share."""
    result = result_of(results)
    kept = {name: result[name] for name in ("metrics", "counts", "untrained", "anytime", "weights_sha256", "steps")}
    return kept, (only_folder(results) / "metrics.jsonl").read_text()


def interrupt(monkeypatch, owner, name, calls):
    """Let a function fail like a killed process at its n-th call, after its work is done."""
    original, count = getattr(owner, name), iter(range(1, 10**6))

    def replaced(*arguments, **more):
        value = original(*arguments, **more)
        if next(count) == calls:
            raise Killed
        return value

    monkeypatch.setattr(owner, name, replaced)
