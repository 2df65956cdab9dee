"""How a worker sets Python's garbage collector."""

import gc
from collections.abc import Generator

import pytest

from app.garbage import YOUNG, settle


@pytest.fixture
def collector() -> Generator[None]:
    """Leave the collector as it was."""
    before, enabled = gc.get_threshold(), gc.isenabled()
    yield
    gc.unfreeze()
    gc.set_threshold(*before)
    if not enabled:
        gc.disable()


@pytest.mark.usefixtures("collector")
def test_what_is_there_stays_and_what_comes_is_still_collected() -> None:
    """The collector is on, looks seldom, and not at what was there before."""
    gc.disable()
    settle()
    assert gc.isenabled()
    assert gc.get_threshold()[0] == YOUNG
    frozen = gc.get_freeze_count()
    assert frozen > YOUNG
    cycle: list[object] = []
    cycle.append(cycle)
    del cycle
    assert gc.collect() >= 1
    assert gc.get_freeze_count() == frozen
