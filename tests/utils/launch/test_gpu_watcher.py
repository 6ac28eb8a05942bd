import os
import time

import pytest

from tests.utils.launch.gpu_rig import Clock, FakeNvidiaSmi, row, uuid
from utils.launch import gpu_watcher
from utils.launch.gpu_watcher import GpuWatcher, visible_names
from utils.launch.gpus import Gpu

LOST = "[GPU is lost]"


@pytest.fixture
def device_folder(tmp_path, monkeypatch):
    folder = tmp_path / "dev"
    folder.mkdir()
    monkeypatch.setattr(gpu_watcher, "DEVICE_FOLDER", folder)
    return folder


@pytest.fixture
def smi(tmp_path, monkeypatch, device_folder):
    folder = tmp_path / "bin"
    folder.mkdir()
    return FakeNvidiaSmi(folder, monkeypatch)


@pytest.fixture
def no_smi(tmp_path, monkeypatch, device_folder):
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.fixture
def no_gputil(tmp_path, monkeypatch):
    folder = tmp_path / "broken"
    folder.mkdir()
    (folder / "GPUtil.py").write_text("import a_module_that_is_nowhere\n")
    monkeypatch.setenv("PYTHONPATH", str(folder))


@pytest.fixture
def said():
    return []


def watcher(said, visible=None, **more):
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    return GpuWatcher(said.append, environment, **more)


def ids(found):
    return [gpu.id for gpu in found]


def test_gputil_works_where_python_has_no_distutils(tmp_path, monkeypatch, smi, said):
    (tmp_path / "without").mkdir()
    (tmp_path / "without" / "distutils.py").write_text("raise ModuleNotFoundError('distutils')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "without"))
    monkeypatch.setenv("SETUPTOOLS_USE_DISTUTILS", "stdlib")  # or setuptools would put its own in its place
    smi.play(row(0, load=50))
    assert [gpu.load for gpu in watcher(said).look()] == [0.5]
    assert "gpu_serial" in smi.calls[0]
    assert len(smi.calls) == 1
    assert said == []


def test_figures_come_through_gputil(smi, said):
    smi.play(row(0, load=37, used=1234, total=40960), row(1, name="Tesla T4"))
    first, second = watcher(said).look()
    assert first == Gpu(uuid(0), 0, "NVIDIA A100", uuid(0), pytest.approx(0.37), 1234.0, 40960.0)
    assert (second.name, second.label) == ("Tesla T4", "GPU 1")
    assert said == []
    assert len(smi.calls) == 1
    assert "gpu_serial" in smi.calls[0]  # which GPUtil asks for, and this package does not


def test_without_gputil_the_figures_are_the_same(smi, no_gputil, said):
    smi.play(row(0, load=37, used=1234, total=40960, name="NVIDIA RTX 6000, Ada"))
    looking = watcher(said)
    assert looking.look() == looking.look()
    assert looking.look() == [Gpu(uuid(0), 0, "NVIDIA RTX 6000, Ada", uuid(0), 0.37, 1234.0, 40960.0)]
    assert len(said) == 1
    assert "GPUtil" in said[0]
    assert "a_module_that_is_nowhere" in said[0]


@pytest.mark.parametrize("gputil", [True, False])
def test_each_figure_may_be_unknown(smi, said, request, gputil):
    if not gputil:
        request.getfixturevalue("no_gputil")
    words = ["[Not Supported]", "[N/A]", "N/A", "", "[Unknown Error]", "nan", "-1", "inf", "101e99"]
    figures = {"load": 0.0, "memory_used": 0.0, "memory_total": 40000.0}
    smi.play(
        *(row(10 + index, load=word) for index, word in enumerate(words)),
        *(row(20 + index, used=word) for index, word in enumerate(words)),
        *(row(30 + index, total=word) for index, word in enumerate(words)),
    )
    expected = [figures | {figure: None} for figure in figures for _ in words]
    assert [{figure: getattr(gpu, figure) for figure in figures} for gpu in watcher(said).look()] == expected


def test_a_gpu_without_uuid_goes_by_its_number(smi, said):
    smi.play(row(0, uuid="[N/A]"), row(1, uuid="[N/A]"))
    (gpu,) = watcher(said, "1").look()
    assert (gpu.id, gpu.uuid, gpu.label) == ("1", None, "GPU 1")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (None, None),
        ("", []),
        (" ", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("0", ["0"]),
        (" 2, 0", ["2", "0"]),
        ("0,-1,1", ["0"]),
        ("GPU-8932f937,MIG-GPU-1/2/3", ["GPU-8932f937", "MIG-GPU-1/2/3"]),
    ],
)
def test_names_in_cuda_visible_devices(text, names):
    assert visible_names(text) == names


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, [0, 1, 2]),
        ("2,0", [2, 0]),
        ("1,1", [1]),
        ("0,-1,1", [0]),
        (uuid(1), [1]),
        (uuid(2)[:8] + "," + uuid(0), [2, 0]),
    ],
)
def test_only_what_the_caller_may_use(smi, said, visible, expected):
    smi.play(row(0), row(1), row(2))
    assert ids(watcher(said, visible).look()) == [uuid(index) for index in expected]
    assert said == []


@pytest.mark.parametrize("visible", ["", "-1"])
def test_an_empty_list_means_no_gpu_and_asks_nobody(smi, said, visible):
    smi.play(row(0))
    assert watcher(said, visible).look() == []
    assert smi.calls == []
    assert said == []


@pytest.mark.parametrize(
    ("visible", "word", "expected"), [("0 1", "0 1", []), ("1,gpu0,0", "gpu0", [1]), ("all", "all", [])]
)
def test_a_word_that_ends_the_list_by_mistake_is_said_once(smi, said, visible, word, expected):
    smi.play(row(0), row(1))
    looking = watcher(said, visible)
    assert ids(looking.look()) == ids(looking.look()) == [uuid(index) for index in expected]
    assert len(said) == 1
    assert f"'{word}'" in said[0]


@pytest.mark.parametrize("visible", ["0,-1,1", "0,", "0,NoDevFiles", " "])
def test_a_word_that_ends_the_list_on_purpose_is_not(smi, said, visible):
    smi.play(row(0), row(1))
    watcher(said, visible).look()
    assert said == []


@pytest.mark.parametrize("output", ["", "not a list", "[1, 2]", "5"])
def test_gputil_that_gives_nothing_legible_is_replaced(smi, said, tmp_path, monkeypatch, output):
    (tmp_path / "GPUtil.py").write_text(f"import os\nprint({output!r}, flush=True)\nos._exit(0)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    smi.play(row(0, used=7))
    assert [gpu.memory_used for gpu in watcher(said).look()] == [7.0]
    assert len(said) == 1
    assert "GPUtil" in said[0]


def test_what_python_prints_beside_gputils_answer_does_no_harm(smi, said, tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text("print('welcome')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    smi.play(row(0, used=7))
    assert [gpu.memory_used for gpu in watcher(said).look()] == [7.0]
    assert said == []


@pytest.mark.parametrize("visible", ["1,7", f"{uuid(1)},GPU-nowhere"])
def test_a_name_that_is_no_gpu_is_said_once(smi, said, visible):
    smi.play(row(0), row(1))
    looking = watcher(said, visible)
    assert ids(looking.look()) == ids(looking.look()) == [uuid(1)]
    assert len(said) == 1
    assert visible.partition(",")[2] in said[0]


def test_a_mig_device_is_used_without_figures(smi, said):
    smi.play(row(0, load="[N/A]"))
    looking = watcher(said, "MIG-1234,MIG-5678")
    for _ in range(2):
        first, second = looking.look()
        assert (first.id, second.id) == ("MIG-1234", "MIG-5678")
        assert (first.load, first.memory_used, first.memory_total) == (None, None, None)


def test_indices_among_unlike_gpus_are_in_doubt_unless_the_order_is_fixed(smi, said):
    smi.play(row(0, name="Tesla T4"), row(1))
    fixed = {"CUDA_VISIBLE_DEVICES": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    assert ids(GpuWatcher(said.append, fixed).look()) == [uuid(1)]
    watcher(said, uuid(1)).look()
    assert said == []
    assert ids(watcher(said, "1").look()) == [uuid(1)]
    assert len(said) == 1
    assert "order" in said[0]


def test_a_foreign_line_does_not_hide_the_gpus(smi, said):
    smi.play(row(0), row(1, used=7), text="Warning: persistence mode is off\n", code=1)
    looking = watcher(said)
    for _ in range(2):
        assert [gpu.memory_used for gpu in looking.look()] == [0.0, 7.0]
    assert ["gpu_serial" in call for call in smi.calls] == [True, False, False]  # GPUtil is not tried again


@pytest.mark.parametrize(
    ("scene", "reason"),
    [
        ({"text": "NVIDIA-SMI has failed: is the driver installed?\n\n", "code": 9}, "is the driver installed?"),
        ({"errors": "Failed to initialize NVML: version mismatch\n", "code": 18}, "Failed to initialize NVML"),
        (
            {
                "text": "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 580.159\n",
                "code": 18,
            },
            "says Failed to initialize NVML: Driver/library version mismatch; NVML library version: 580.159",
        ),
        ({"text": "No devices were found\n", "code": 6}, "No devices were found"),
        ({"text": "\x00\xff\x1b[2J, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11\n"}, "1, 2, 3, 4, 5"),
        ({"text": "0, GPU-1\n0\n"}, "0"),
        ({"text": "Note, N/A, of, six, parts, follows\n"}, "of, six, parts"),
        ({"code": 3}, "exit code 3"),
    ],
)
def test_an_answer_without_gpus_is_said_once_and_nowhere_else(smi, said, capfd, scene, reason):
    smi.play(lists=False, **scene)
    looking = watcher(said)
    assert looking.look() == looking.look() == []
    assert len(said) == 1
    assert "no GPU can be used" in said[0]
    assert reason in said[0]
    assert said[0].isprintable()
    assert capfd.readouterr() == ("", "")


def test_a_gpu_that_is_lost_is_left_out_and_may_come_back(smi, said):
    smi.play(row(0), row(1))
    looking = watcher(said)
    assert ids(looking.look()) == [uuid(0), uuid(1)]
    smi.play(row(0), row(1, LOST, LOST, LOST, uuid=LOST, name=LOST))
    assert ids(looking.look()) == [uuid(0)]
    smi.play(row(0), row(1))
    assert ids(looking.look()) == [uuid(0), uuid(1)]


@pytest.mark.parametrize(("visible", "expected"), [(None, [1, 2]), ("0,1", [1])])
def test_a_gpu_that_is_lost_before_the_first_look_is_never_used(smi, said, visible, expected):
    smi.play(row(0, LOST, LOST, LOST, uuid=LOST, name=LOST), row(1), row(2))
    assert ids(watcher(said, visible).look()) == [uuid(index) for index in expected]


def test_a_lost_gpu_does_not_hide_the_others(smi, said):
    smi.play(row(0), row(1))
    looking = watcher(said)
    looking.look()
    message = "Unable to determine the device handle for GPU0000:3B:00.0: GPU is lost.\n"
    smi.play(row(0, used=5), text=message, code=15, lists=False, answers_alone=True)
    assert [(gpu.id, gpu.memory_used) for gpu in looking.look()] == [(uuid(0), 5.0)]


def test_a_lost_gpu_does_not_hide_the_others_at_the_first_look(smi, said, device_folder):
    for name in ("nvidia0", "nvidia1", "nvidiactl"):
        (device_folder / name).touch()
    message = "Unable to determine the device handle for GPU0000:3B:00.0: GPU is lost.\n"
    smi.play(row(0), text=message, code=15, lists=False, answers_alone=True)
    assert ids(watcher(said).look()) == [uuid(0)]


def test_numbers_that_move_up_after_a_loss_let_no_other_gpu_in(smi, said):
    smi.play(row(0), row(1), row(2))
    looking = watcher(said, "0,1")
    looking.look()
    smi.play(row(0) | {"uuid": uuid(1)}, row(1) | {"uuid": uuid(2)})  # GPU 0 is gone
    assert ids(looking.look()) == [uuid(1)]


def test_without_nvidia_smi_and_without_driver_there_is_no_gpu(no_smi, said):
    assert watcher(said).look() == []
    assert watcher(said, "0").look() == []
    assert said == []


@pytest.mark.parametrize(
    ("visible", "expected"), [(None, ["0", "1"]), ("1", ["1"]), ("MIG-77", ["MIG-77"]), ("0,0", ["0"]), ("", [])]
)
def test_without_nvidia_smi_the_driver_shows_that_there_are_gpus(no_smi, device_folder, said, visible, expected):
    for name in ("nvidia0", "nvidia3", "nvidiactl", "nvidia-uvm"):
        (device_folder / name).touch()
    looking = watcher(said, visible)
    assert looking.look() == looking.look()
    assert ids(looking.look()) == expected
    assert all((gpu.load, gpu.memory_used, gpu.memory_total) == (None, None, None) for gpu in looking.look())
    assert len(said) == (1 if expected else 0)


@pytest.mark.parametrize("gputil", [True, False])
def test_nvidia_smi_that_hangs_is_ended_and_left_alone_for_a_while(smi, device_folder, said, request, gputil):
    clock = Clock()
    looking = watcher(said, timeout=3, clock=clock)
    if not gputil:
        request.getfixturevalue("no_gputil")
    smi.play(row(0, load=50, used=9))
    (known,) = looking.look()
    smi.play(hangs=True)
    (unknown,) = looking.look()
    assert (unknown.load, unknown.memory_used) == (None, None)
    assert (unknown.id, unknown.memory_total) == (known.id, 40000.0)
    _assert_ended(int(smi.calls[-1].split()[0]))
    num_calls = len(smi.calls)
    clock.advance(gpu_watcher.REST_AFTER_HANG - 1)
    assert looking.look() == [unknown]
    assert len(smi.calls) == num_calls
    assert sum("does not answer" in text for text in said) == 1
    smi.play(row(0, load=50, used=9))
    clock.advance(2)
    assert looking.look() == [known]


def test_nvidia_smi_that_hangs_at_once_leaves_what_the_driver_shows(smi, device_folder, said):
    (device_folder / "nvidia0").touch()
    smi.play(hangs=True)
    assert watcher(said, timeout=2).look() == [Gpu("0", 0)]
    assert len(said) == 1


# -- modes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["Default", "[N/A]", "Exclusive_Process"])
def test_a_gpu_in_exclusive_mode_takes_one_process(smi, said, mode):
    smi.play(row(0, compute_mode=mode), row(1))
    looking = watcher(said)
    for _ in range(2):
        assert [gpu.is_exclusive for gpu in looking.look()] == [mode == "Exclusive_Process", False]
    assert said == []


def test_the_multi_process_service_shares_a_gpu_in_exclusive_mode(smi, said, tmp_path):
    (tmp_path / "control").touch()
    smi.play(row(0, compute_mode="Exclusive_Process"))
    (gpu,) = GpuWatcher(said.append, {"CUDA_MPS_PIPE_DIRECTORY": str(tmp_path)}).look()
    assert not gpu.is_exclusive


def test_a_prohibited_gpu_is_not_used(smi, said):
    smi.play(row(0, compute_mode="Prohibited"), row(1))
    looking = watcher(said)
    assert ids(looking.look()) == ids(looking.look()) == [uuid(1)]
    assert said == ["GPU 0 is not used: its compute mode is Prohibited"]


MIG_LIST = f"""\
GPU 0: NVIDIA H100 80GB HBM3 (UUID: {uuid(0)})
  MIG 1g.10gb     Device  0: (UUID: MIG-aaaa)
  MIG 3g.40gb     Device  1: (UUID: MIG-bbbb)
GPU 1: NVIDIA H100 80GB HBM3 (UUID: {uuid(1)})
  MIG 1g.10gb     Device  0: (UUID: MIG-cccc)
GPU 2: NVIDIA A100 (UUID: {uuid(2)})
"""


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, ["GPU 0:0", "GPU 0:1", "GPU 1:0", "GPU 2"]),
        ("1", ["GPU 1:0"]),
        ("2,0", ["GPU 2", "GPU 0:0", "GPU 0:1"]),
        ("MIG-bbbb,MIG-cccc", ["GPU 0:1", "GPU 1:0"]),
    ],
)
def test_a_gpu_in_mig_mode_gives_way_to_its_mig_devices(smi, said, visible, expected):
    divided = {"load": "[N/A]", "used": "[Insufficient Permissions]", "mig.mode.current": "Enabled"}
    smi.play(row(0, **divided), row(1, **divided), row(2), listed=MIG_LIST)
    looking = watcher(said, visible)
    for _ in range(2):
        found = looking.look()
        assert [gpu.label for gpu in found] == expected
    assert {(gpu.id, gpu.name) for gpu in found if gpu.part == 1} <= {("MIG-bbbb", "NVIDIA H100 80GB HBM3 MIG 3g.40gb")}
    assert said == []


def test_a_gpu_in_mig_mode_without_devices_is_not_used(smi, said):
    smi.play(row(0, **{"mig.mode.current": "Enabled"}), listed=f"GPU 0: NVIDIA H100 (UUID: {uuid(0)})\n")
    assert watcher(said).look() == []
    assert said == ["GPU 0 is not used: it is in MIG mode and has no MIG device"]


@pytest.mark.parametrize(
    ("problems", "expected", "text"),
    [
        ({}, [0, 1], None),
        ({uuid(0): "too old"}, [1], "GPU 0 is not used: too old"),
        ({uuid(0): "no CUDA", uuid(1): "no CUDA"}, [], "no GPU can be used: no CUDA"),
    ],
)
def test_what_the_runs_cannot_use_is_said_once_and_left_out(smi, said, problems, expected, text):
    smi.play(row(0), row(1))
    asked = []
    looking = watcher(said, judge=lambda gpus: asked.append(gpus) or problems)
    assert ids(looking.look()) == ids(looking.look()) == [uuid(index) for index in expected]
    assert len(asked) == 1
    assert said == ([text] if text else [])


def _assert_ended(process_id):
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            os.kill(process_id, 0)
        except ProcessLookupError:
            return
        time.sleep(0.02)
    pytest.fail("nvidia-smi is still running")
