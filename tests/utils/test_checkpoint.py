import pickle

import pytest
import torch

from utils.checkpoint import load_checkpoint, save_checkpoint
from utils.errors import UserError

CPU = torch.device("cpu")
STATE = {"weights": torch.arange(5000.0), "position": {"task": 1, "begun": True}, "rows": [1, None, 2.5], "none": None}


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "checkpoint.pt"
    save_checkpoint(file, "identity", STATE)
    return file


def test_state_comes_back_exactly(path):
    state = load_checkpoint(path, "identity", CPU)
    assert torch.equal(state.pop("weights"), STATE["weights"])
    assert state == {name: value for name, value in STATE.items() if name != "weights"}


def test_no_checkpoint_is_none(tmp_path):
    assert load_checkpoint(tmp_path / "checkpoint.pt", "identity", CPU) is None


def test_other_configuration_is_refused(path):
    with pytest.raises(UserError, match="another configuration"):
        load_checkpoint(path, "other", CPU)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_truncated_file_is_refused(path, share):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(UserError, match="damaged"):
        load_checkpoint(path, "identity", CPU)


def test_single_flipped_bit_in_a_tensor_is_noticed(path):
    content = bytearray(path.read_bytes())
    position = content.index(torch.arange(2000.0, 2010.0).numpy().tobytes())
    content[position] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(UserError, match="damaged"):
        load_checkpoint(path, "identity", CPU)


class _Attack:
    def __init__(self, canary) -> None:
        self.canary = canary

    def __reduce__(self):
        return (type(self.canary).touch, (self.canary,))


def test_code_in_the_file_is_not_executed(tmp_path, path):
    canary = tmp_path / "executed"
    torch.save({"identity": "identity", "state": _Attack(canary)}, path)
    with pytest.raises(UserError, match="damaged"):
        load_checkpoint(path, "identity", CPU)
    assert not canary.exists()


def test_plain_pickle_in_its_place_is_not_executed(tmp_path, path):
    canary = tmp_path / "executed"
    path.write_bytes(pickle.dumps(_Attack(canary)))
    with pytest.raises(UserError, match="damaged"):
        load_checkpoint(path, "identity", CPU)
    assert not canary.exists()
