"""Values for tests of records."""

from utils.records.progress import Progress


def progress(**changes) -> Progress:
    """Of a run that takes 10 steps a second."""
    told = {"pid": 1, "started": 1000.0, "first_step": 0, "updated": 1005.0, "num_tasks": 3, "total_steps": 120}
    return Progress(**told | {"step": 50, "task": 1, "loss": 0.25} | changes)
