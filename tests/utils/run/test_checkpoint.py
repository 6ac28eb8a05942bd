import pickle

import pytest
import torch

from utils.errors import UserError
from utils.run.checkpoint import DamagedCheckpoint, load_checkpoint, restoring, save_checkpoint

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
    with pytest.raises(DamagedCheckpoint, match="damaged"):
        load_checkpoint(path, "identity", CPU)


def test_single_flipped_bit_in_a_tensor_is_noticed(path):
    content = bytearray(path.read_bytes())
    position = content.index(torch.arange(2000.0, 2010.0).numpy().tobytes())
    content[position] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(DamagedCheckpoint, match="damaged"):
        load_checkpoint(path, "identity", CPU)


class _Attack:
    def __init__(self, canary) -> None:
        self.canary = canary

    def __reduce__(self):
        return (type(self.canary).touch, (self.canary,))


def test_code_in_the_file_is_not_executed(tmp_path, path):
    canary = tmp_path / "executed"
    torch.save({"identity": "identity", "state": _Attack(canary)}, path)
    with pytest.raises(DamagedCheckpoint, match="damaged"):
        load_checkpoint(path, "identity", CPU)
    assert not canary.exists()


def test_plain_pickle_in_its_place_is_not_executed(tmp_path, path):
    canary = tmp_path / "executed"
    path.write_bytes(pickle.dumps(_Attack(canary)))
    with pytest.raises(DamagedCheckpoint, match="damaged"):
        load_checkpoint(path, "identity", CPU)
    assert not canary.exists()


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("CUDA error: out of memory"),
        PermissionError(13, "Permission denied"),
        OSError(5, "Input/output error"),
    ],
)
def test_what_a_disk_or_a_full_memory_does_not_give_is_not_called_damaged(path, monkeypatch, error):
    def fail(*arguments, **more):
        raise error

    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(type(error)) as caught:
        load_checkpoint(path, "identity", CPU)
    assert caught.value is error


def test_a_device_that_fails_damages_no_checkpoint(path, monkeypatch):
    load = torch.load

    def load_on_the_cpu_alone(*arguments, map_location, **more):
        if torch.device(map_location).type != "cpu":
            raise RuntimeError("device error")
        return load(*arguments, map_location=map_location, **more)

    monkeypatch.setattr(torch, "load", load_on_the_cpu_alone)
    with pytest.raises(RuntimeError, match="device error"):
        load_checkpoint(path, "identity", torch.device("meta"))


def test_a_state_that_lacks_something_is_of_another_version(path):
    network = torch.nn.Linear(2, 3)
    for take_up in (lambda: {}["best"], lambda: dict(**STATE, **{"none": 1}), lambda: network.load_state_dict({})):
        with pytest.raises(UserError, match=r"written by another version .* remove it to train"), restoring(path):
            take_up()


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), UserError("give --device cuda")])
def test_what_else_fails_while_a_state_is_restored_is_raised_as_it_is(path, error):
    with pytest.raises(type(error), match=str(error)), restoring(path):
        raise error
