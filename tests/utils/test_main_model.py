"""The trained network that a complete run keeps."""

import json

import pytest
import torch

from utils.config.registry import METHODS
from utils.errors import UserError
from utils.main import load_run, main
from utils.run.measurements import weights_digest

pytestmark = pytest.mark.usefixtures("shallow")

DIGITS = "--dataset seq-digits --backbone resnet18 --nf 8 --debug_mode 2 --seed 2 --threads 1 --device cpu --nowand 1"


@pytest.fixture
def start(tmp_path):
    def run(method, *words):
        memory = ["--buffer_size", "40"] if METHODS.get(method).uses_memory else []
        offline = ["--epochs", "1"] if METHODS.get(method).protocol == "offline" else ["--lr", "0.05"]
        second = any(option.name == "second_epochs" for option in METHODS.get(method).options)
        more = [*memory, *offline, *(["--second_epochs", "1"] if second else []), "--results_dir", str(tmp_path)]
        assert main(["--model", method, *DIGITS.split(), *more, *words]) == 0
        (result,) = tmp_path.rglob("result.json")
        return result.parent

    return run


@pytest.mark.parametrize(
    ("method", "norm"),
    [
        ("er_ace", "AdaB2N"),
        ("podnet", "BN"),
        pytest.param("lucir", "TBBN", marks=pytest.mark.slow),
        pytest.param("icarl", "LN", marks=pytest.mark.slow),
    ],
)
def test_a_record_gives_back_its_network(start, method, norm):
    folder = start(method, "--nl", norm)
    loaded = load_run(folder)
    assert weights_digest(loaded.network) == json.loads((folder / "result.json").read_text())["weights_sha256"]
    assert (loaded.config.model, loaded.config.nl, loaded.config.seed) == (method, norm, 2)
    assert sorted(loaded.class_order) == list(range(10))
    assert not loaded.network.training
    images = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)
    assert loaded.network(loaded.prepare(images)).shape == (3, 10)
    with pytest.raises(UserError, match="have 32x32 pixels: resize them to the network's 16x16"):
        loaded.prepare(images.repeat(1, 1, 2, 2))


def test_its_outputs_are_the_classes_in_the_order_of_learning(start):
    """The accuracy that the record tells comes out again, on the digits as they are stored."""
    from datasets.seq_digits import SeqDigits

    folder = start("joint", "--debug_mode", "40")
    loaded, arrays = load_run(folder), SeqDigits().load(folder)
    images = torch.from_numpy(arrays.test_x).permute(0, 3, 1, 2)
    with torch.no_grad():
        predicted = loaded.network(loaded.prepare(images)).argmax(dim=1)
    classes = torch.tensor(loaded.class_order)[predicted]
    counts = json.loads((folder / "result.json").read_text())["counts"]
    assert int((classes == torch.from_numpy(arrays.test_y)).sum()) == sum(counts["class_il"][-1])


def test_nothing_is_kept_if_nothing_is_to_be_kept(start):
    folder = start("er", "--keep_model", "0")
    assert not (folder / "model.pt").exists()
    assert not (folder / "checkpoint.pt").exists()
    with pytest.raises(UserError, match="--keep_model 0"):
        load_run(folder)


def test_a_kept_checkpoint_is_the_state_after_the_last_step(start):
    folder = start("er", "--keep_checkpoint", "1")
    state = torch.load(folder / "checkpoint.pt", weights_only=True)["state"]
    assert state["position"]["step"] == json.loads((folder / "result.json").read_text())["steps"]
    assert state["position"]["task"] == 5


def test_a_damaged_file_is_one_line(start):
    folder = start("sgd")
    path = folder / "model.pt"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match=r"model\.pt is damaged"):
        load_run(folder)
