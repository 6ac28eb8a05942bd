from tests.models.rig import make
from utils.data.plan import TaskStream


def test_trains_once_on_the_union_after_the_last_task():
    method = make("joint")
    assert [method.stages(task) for task in range(4)] == [[]] * 4
    (stage,) = method.stages(4)
    assert stage.data == TaskStream((0, 1, 2, 3, 4))
