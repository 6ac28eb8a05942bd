"""Whole runs and grids whose results a refactoring must leave as they are.

python -m tests.behaviour write [NAME …]    run all (or those named) and write `tests/behaviour.json`
python -m tests.behaviour check [NAME …]    run again and say what differs; exit code 1 if anything does

Identities are the same everywhere. Weights, and with them the figures of tables, are those of one build of torch on one
kind of processor: the file names them, and elsewhere only identities and the shape of the tables are compared.
"""

import contextlib
import io
import json
import platform
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import tests.seq_mapped  # noqa: F401, registers its dataset
from utils.main import main

ROOT = Path(__file__).resolve().parent.parent
EXPECTED = Path(__file__).with_suffix(".json")

_DIGITS = "--dataset seq-digits --nf 8 --seed 3"
_ONLINE = f"{_DIGITS} --lr 0.05 --debug_mode 12"
_MEMORY = f"{_ONLINE} --buffer_size 60"
_OFFLINE = f"{_DIGITS} --backbone resnet18 --epochs 2 --batch_size 32 --buffer_size 60 --debug_mode 3"

RUNS = {
    "sgd": f"--model sgd --nl LN {_ONLINE}",
    "joint": f"--model joint --nl GN --num_groups 4 {_ONLINE}",
    "er": f"--model er --nl IN --minibatch_size 6 {_MEMORY}",
    "er_ace": f"--model er_ace --nl AdaB2N --kappa 0.7 --lambd 0.5 --ada_t0 1 {_MEMORY}",
    "er_joint": f"--model er_ace --nl BRN --forward joint --buffer_mode ring --eval_every 4 {_MEMORY}",
    "der": f"--model der --nl CN --num_groups 4 --alpha 0.4 --ignore_other_metrics 0 {_MEMORY}",
    "derpp": f"--model derpp --nl TBBN --alpha 0.2 --beta 0.5 {_MEMORY}",
    "ft": f"--model ft --nl BN --retune_norms 1 {_OFFLINE}",
    "lwf": f"--model lwf --nl SN {_OFFLINE}",
    "eeil": f"--model eeil --nl CN --num_groups 4 --second_epochs 1 {_OFFLINE}",
    "lucir": f"--model lucir --nl TBBN {_OFFLINE}",
    "podnet": f"--model podnet --nl AdaB2N --second_epochs 1 --lr 0.05 {_OFFLINE}",
    "ssil": f"--model ssil --nl BN {_OFFLINE}",
    "afc": f"--model afc --nl BN --second_epochs 1 --lr 0.05 {_OFFLINE}",
    "icarl": f"--model icarl --nl GN --channels_per_group 4 --validation 0.2 {_OFFLINE}",
    "arrays": "--model ft --nl TBBN --dataset seq-arrays --n_tasks 3 --nf 4 --backbone resnet18 --epochs 2 "
    "--buffer_size 12 --batch_size 16 --flip 1",
    "mapped": "--model ft --nl TBBN --dataset seq-mapped --n_tasks 3 --nf 4 --backbone resnet18 --epochs 2 "
    "--buffer_size 12 --batch_size 16",
    "killed": f"--model er_ace --nl AdaB2N --kappa 0.4 {_DIGITS} --lr 0.05 --buffer_size 60",
}

GRIDS = {
    "online": "--preset demo --num_seeds 2 --models er_ace --methods BN AdaB2N TBBN --kappa 0.4 1.0 --epochs 1",
    "offline": "--preset tbbn-layers --datasets seq-digits --models ft lucir --methods BN TBBN CN* --epochs 2 --nf 16 "
    "--backbone resnet18 --buffer_sizes 60",
    "validated": "--preset demo --num_seeds 2 --models er --methods BN AdaB2N --kappa 0.4 1.0 "
    "--epochs 1 --selection validation --search_seeds 0",
}
_TABLES = ("table.md", "table.tex", "table.csv")
_PLAIN = ("--fused_norms", "off")  # the compiled kernels of norm layers depend on the compiler


def write_data(root: Path) -> None:
    """A small set for `seq-arrays`."""
    random = np.random.default_rng(0)
    for split, size in (("train", 20), ("test", 8)):
        labels = random.permutation(np.repeat(np.arange(6), size))
        centers = np.linspace(40, 215, 6)[labels][:, None, None, None]
        images = centers + random.normal(0, 25, size=(len(labels), 16, 16, 3))
        np.save(root / f"{split}_x.npy", np.clip(images, 0, 255).astype(np.uint8))
        np.save(root / f"{split}_y.npy", labels)


def run(name: str, folder: Path) -> dict[str, Any]:
    """Identity and weights of a run, which is killed once and goes on if that is what it is for."""
    places = ["--results_dir", str(folder / name), "--data_root", str(folder / "data")]
    words = [*RUNS[name].split(), "--threads", "1", "--device", "cpu", *_PLAIN, "--nowand", "1", *places]
    if name == "killed":
        _kill_once([*words, "--checkpoint_every", "0"], folder / name)
    with contextlib.redirect_stdout(io.StringIO()):
        code = main(words)
    if code:
        raise RuntimeError(f"run {name} ended with {code}")
    (path,) = (folder / name).rglob("result.json")
    result = json.loads(path.read_text())
    return {name: result[name] for name in ("identity", "weights_sha256", "steps")} | {"record": path.parent.name}


def _kill_once(words: list[str], results: Path) -> None:
    child = subprocess.Popen([sys.executable, "utils/main.py", *words], cwd=ROOT, stdout=subprocess.DEVNULL)
    while not list(results.rglob("checkpoint.pt")):
        if child.poll() is not None:
            raise RuntimeError("the run was over before it could be killed")
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.wait()


def grid(name: str, folder: Path) -> dict[str, Any]:
    """The tables of a grid, and the identities of its runs."""
    results = folder / "grids"
    words = [*GRIDS[name].split(), "--results_dir", str(results), "--group", name, "-y", *_PLAIN, "--nowand", "1"]
    ended = subprocess.run([sys.executable, "run.py", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise RuntimeError(f"grid {name} ended with {ended.returncode}: {ended.stderr}")
    paths = sorted((results / name).glob("*/result.json"))
    found = {path.parent.name: json.loads(path.read_text()) for path in paths}
    runs = {record: [result["identity"], result["weights_sha256"]] for record, result in found.items()}
    return {"runs": runs, "tables": {each: (results / name / each).read_text("utf-8") for each in _TABLES}}


def arithmetic() -> list[str]:
    """What weights depend on beside the code: the build of torch and the kind of processor."""
    import torch

    flags = next((line for line in _cpu_lines() if line.startswith("model name")), platform.processor())
    return [torch.__version__, flags.partition(":")[2].strip(), torch.backends.cpu.get_cpu_capability()]


def _cpu_lines() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []


def everywhere(found: dict[str, Any]) -> dict[str, Any]:
    """What of a run or a grid is the same on every machine: figures, which depend on weights, are left out."""
    if "runs" not in found:
        return {name: found[name] for name in ("identity", "steps", "record")}
    runs = {record: identity for record, (identity, _) in found["runs"].items()}
    lines = found["tables"]["table.md"].splitlines()
    return {"runs": runs, "rows": [line.split("|")[1:3] for line in lines if line.startswith("|")]}


def measure(names: list[str]) -> dict[str, Any]:
    """Everything, by name."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "data").mkdir()
        write_data(root / "data")
        for name in names:
            found[name] = grid(name, root) if name in GRIDS else run(name, root)
    return found


def differences(expected: dict[str, Any], found: dict[str, Any], is_same_machine: bool) -> list[str]:
    """What differs, a line each."""
    lines = []
    for name, now in found.items():
        before = expected[name]
        if not is_same_machine:
            before, now = everywhere(before), everywhere(now)
        lines += [f"{name}: {key} was {before[key]!r}, is {now[key]!r}" for key in before if before[key] != now[key]]
    return lines


def _command(words: list[str]) -> int:
    action, names = words[0], words[1:] or [*RUNS, *GRIDS]
    if action == "write":
        former = json.loads(EXPECTED.read_text())["found"] if EXPECTED.exists() else {}
        content = {"arithmetic": arithmetic(), "found": former | measure(names)}
        EXPECTED.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        return 0
    expected = json.loads(EXPECTED.read_text())
    lines = differences(expected["found"], measure(names), expected["arithmetic"] == arithmetic())
    print(*(lines or ["no difference"]), sep="\n")
    return int(bool(lines))


if __name__ == "__main__":
    sys.exit(_command(sys.argv[1:]))
