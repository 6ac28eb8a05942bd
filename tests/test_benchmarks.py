"""That every benchmark runs to its end; what it measures is not looked at."""

import subprocess
import sys

import pytest

from utils.config.registry import ROOT

MAKE_BELIEVE = ROOT.parent / "shared" / "gpu" / "make_believe"
SMALL = {
    "against.py": f"{ROOT} --rounds 1 --steps 1 --nf 4 --steps_of er_ace:BN",
    "buffer.py": "--rounds 1",
    "evaluation.py": "--rounds 1 --nf 4 --sizes 10 20 --images 40",
    "gpu.py": "--device cpu --precisions fp32 --layers TBBN --processes 2 --rounds 1 --steps 1 --seconds 0.1 --nf 4",
    "growth.py": "--rounds 1 --steps 1 --nf 1 --models sgd --layers BN",
    "kernel_calls.py": "--models er_ace --layers TBBN",
    "launcher.py": "--idle 2",
    "norm_layers.py": "--rounds 1 --steps 1 --layers TBBN",
    "step.py": "--rounds 1 --steps 1 --nf 4 --models er_ace ft",
}


def test_all_are_known():
    programs = {path.name for path in (ROOT / "benchmarks").glob("*.py") if "__main__" in path.read_text()}
    assert programs - {"stand_in.py"} == SMALL.keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_it_runs_to_its_end(name):
    if name == "kernel_calls.py" and not MAKE_BELIEVE.is_dir():
        pytest.skip(f"there is no {MAKE_BELIEVE}")
    command = [sys.executable, str(ROOT / "benchmarks" / name), *SMALL[name].split()]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout
