"""Metrics of several workers: each counts in files of the folder they share, and any of them tells the sum.

prometheus_client's multiprocess mode, with a worker's number in place of its process id: one that takes a dead one's
place counts on in its files, so that no counter ever goes back, and there are never more files than workers.
"""

from pathlib import Path
from typing import Any, cast

from prometheus_client import multiprocess, values
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import CollectorRegistry

from app.settings import name_metrics_folder
from app.workers.worker import Worker


def share_metrics(worker: Worker) -> None:
    """Count in files from now on; before anything is measured."""
    name_metrics_folder(str(worker.folder))
    _untyped(values).ValueClass = _untyped(values).MultiProcessValue(lambda: worker.number)


def summed(worker: Worker) -> CollectorRegistry:
    """Return what all workers have counted."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(worker.folder))
    return registry


def forget_under_way(folder: Path, number: int) -> None:
    """Count no more what a dead worker had under way; what it has counted stays."""
    _untyped(multiprocess).mark_process_dead(number, str(folder))


def _untyped(module: object) -> Any:
    return cast("Any", module)
