"""One status of a model from those of its replicas and its router."""

import pytest

from vllm_launcher.keeping.collaborators import ServerSpec, part_of
from vllm_launcher.keeping.gathered import gather
from vllm_launcher.status import ServerStatus, State

SPEC = ServerSpec("m", "m", replicas=(ServerSpec("m@0", "m"), ServerSpec("m@1", "m")))


def part(name: str, state: State, **fields: object) -> ServerStatus:
    """A replica, or the router; a ready one answers somewhere."""
    usual: dict[str, object] = {"endpoint": f"http://{name}"} if state == "ready" else {}
    return ServerStatus.model_validate(
        {"model": part_of("m", name), "served_name": "m", "state": state, **usual, **fields}
    )


def gathered(
    first: ServerStatus, second: ServerStatus, router: ServerStatus, routed: tuple[str, ...] = (), **changes: str
) -> ServerStatus:
    """The model as a whole."""
    return gather(SPEC, [first, second], router, routed=routed, **changes)


ROUTER = part("router", "ready", pid=9, restarts=1)


def test_it_is_ready_with_the_routers_endpoint_while_one_replica_is() -> None:
    """And says how many are."""
    now = gathered(part("0", "ready"), part("1", "starting"), ROUTER, ("http://0",))
    assert (now.state, now.endpoint, now.phase) == ("ready", "http://router", "1 of 2 replicas ready")
    assert now.pid == 9


def test_it_is_not_ready_before_the_router_knows_a_replica() -> None:
    """A router that sends requests to nobody answers none."""
    now = gathered(part("0", "ready"), part("1", "starting"), ROUTER, ("http://1",))
    assert (now.state, now.endpoint) == ("warming", None)


def test_a_restart_of_a_replica_is_not_one_of_the_model() -> None:
    """Requests at the others go on: to the app it is the same server."""
    now = gathered(part("0", "ready", restarts=3), part("1", "ready"), ROUTER, ("http://0", "http://1"))
    assert now.restarts == 1


@pytest.mark.parametrize(
    ("states", "told"),
    [
        (("fetching", "starting"), "starting"),
        (("starting", "warming"), "warming"),
        (("failed", "starting"), "starting"),
        (("failed", "failed"), "failed"),
        (("stopped", "failed"), "failed"),
        (("stopped", "stopped"), "stopped"),
        (("absent", "absent"), "absent"),
        (("asleep", "asleep"), "asleep"),
    ],
)
def test_while_none_is_ready_the_furthest_is_told_of(states: tuple[State, State], told: State) -> None:
    """What there is hope of comes first."""
    first, second = (part(str(number), state, reason=state) for number, state in enumerate(states))
    now = gathered(first, second, part("router", "absent"))
    assert (now.state, now.reason) == (told, told)


def test_a_model_that_leaves_drains_until_nothing_of_it_is_left() -> None:
    """The endpoint is withdrawn at once, whatever its parts are still doing."""
    now = gathered(part("0", "ready"), part("1", "stopped"), ROUTER, ("http://0",), leaving="finishing requests")
    assert (now.state, now.endpoint, now.phase) == ("draining", None, "finishing requests")
    gone = gathered(part("0", "stopped"), part("1", "stopped"), part("router", "stopped"), leaving="finishing requests")
    assert gone.state == "stopped"


def test_without_a_router_it_fails_with_the_routers_reason() -> None:
    """It could not be installed, say."""
    now = gathered(part("0", "stopped"), part("1", "stopped"), part("router", "failed", reason="No network.", hint="!"))
    assert (now.state, now.reason, now.hint) == ("failed", "Its router: No network.", "!")


def test_what_replicas_do_adds_up() -> None:
    """Requests, speed and memory are sums, the cache's use is the mean; unknown stays unknown."""
    busy = {"requests": 2, "tokens_per_second": 10.0, "memory_bytes": 100, "cache_usage": 0.5}
    now = gathered(part("0", "ready", **busy), part("1", "ready", **busy | {"cache_usage": 0.1}), ROUTER)
    assert (now.requests, now.tokens_per_second, now.memory_bytes, now.cache_usage) == (4, 20.0, 200, 0.3)
    assert gathered(part("0", "ready"), part("1", "ready"), ROUTER).requests is None
