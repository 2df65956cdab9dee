"""The wire types: what survives the wire, and what they refuse."""

import pytest
from pydantic import ValidationError

from vllm_launcher.progress import Progress
from vllm_launcher.status import LauncherStatus, ServerStatus

READY = ServerStatus(model="m", served_name="m", state="ready", endpoint="http://127.0.0.1:1", pid=5)


def test_a_status_survives_the_wire() -> None:
    """JSON and back is the same value."""
    progress = Progress(phase="downloading weights", done=3, total=9, unit="bytes")
    fetching = ServerStatus(model="n", served_name="n", state="fetching", progress=progress)
    status = LauncherStatus(version="1", pid=2, started_at=3.5, servers=(READY, fetching))
    assert LauncherStatus.model_validate_json(status.model_dump_json()) == status


def test_a_server_is_found_by_its_model() -> None:
    """None where there is no such model."""
    status = LauncherStatus(version="1", pid=2, started_at=3.5, servers=(READY,))
    assert status.server("m") is READY
    assert status.server("other") is None


def test_a_status_is_frozen() -> None:
    """Nobody changes what others look at."""
    with pytest.raises(ValidationError):
        READY.state = "failed"  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(("done", "total", "fraction"), [(0, None, None), (1, 4, 0.25), (9, 4, 1.0), (0, 0, None)])
def test_a_fraction_needs_a_total(done: int, total: int | None, fraction: float | None) -> None:
    """And is never more than all."""
    assert Progress(phase="p", done=done, total=total).fraction == fraction


@pytest.mark.parametrize("state", ["absent", "fetching", "starting", "warming", "draining", "stopped", "failed"])
def test_nothing_but_a_ready_server_has_an_endpoint(state: str) -> None:
    """A status that says otherwise cannot be made, here or on the other side of the wire."""
    with pytest.raises(ValidationError, match="only a ready server has an endpoint"):
        ServerStatus.model_validate(dict(READY) | {"state": state})
