"""One status of a model from those of its replicas and of the router in front of them. Pure."""

from collections.abc import Collection, Sequence

from vllm_launcher.keeping.collaborators import ServerSpec
from vllm_launcher.keeping.reporter import GONE, first_status
from vllm_launcher.status import ServerStatus, State

FURTHEST: tuple[State, ...] = (
    "warming", "starting", "fetching", "draining", "asleep", "failed", "stopped", "absent",
)  # fmt: skip
"""Of several replicas of which none is ready, the one that is told of."""


def gather(
    spec: ServerSpec,
    replicas: Sequence[ServerStatus],
    router: ServerStatus,
    *,
    routed: Collection[str] = (),
    leaving: str | None = None,
) -> ServerStatus:
    """The model as a whole, except for when it entered its state.

    Args:
        spec: The model.
        replicas: Its servers.
        router: What is in front of them.
        routed: Base URLs of the replicas that the router sends requests to.
        leaving: Why it is being stopped, if it is.
    """
    told = _told(replicas, router, routed, leaving)
    return ServerStatus.model_validate({**dict(first_status(spec)), **_sums(replicas, router), **told})


def _told(
    replicas: Sequence[ServerStatus], router: ServerStatus, routed: Collection[str], leaving: str | None
) -> dict[str, object]:
    ready = [replica for replica in replicas if replica.endpoint is not None]
    if leaving is not None and any(part.state not in GONE for part in (*replicas, router)):
        return {"state": "draining", "phase": leaving}
    if router.state == "failed":
        return {"state": "failed", "reason": f"Its router: {router.reason}", "hint": router.hint}
    if router.endpoint is not None and any(replica.endpoint in routed for replica in ready):
        phase = "" if len(ready) == len(replicas) else f"{len(ready)} of {len(replicas)} replicas ready"
        return {"state": "ready", "phase": phase, "endpoint": router.endpoint, "pid": router.pid}
    if ready:
        return {"state": "warming", "phase": "starting the router", "reason": router.reason, "hint": router.hint}
    furthest = min(replicas, key=lambda replica: FURTHEST.index(replica.state))
    return furthest.model_dump(include={"state", "phase", "progress", "reason", "hint"})


def _sums(replicas: Sequence[ServerStatus], router: ServerStatus) -> dict[str, object]:
    """What adds up. A restart is the router's: requests under way at the other replicas go on when one dies."""
    caches = [replica.cache_usage for replica in replicas if replica.cache_usage is not None]
    return {
        "replicas": tuple(replicas),
        "restarts": router.restarts,
        "memory_bytes": _total([part.memory_bytes for part in (*replicas, router)]),
        "requests": _total([replica.requests for replica in replicas]),
        "tokens_per_second": _total([replica.tokens_per_second for replica in replicas]),
        "cache_usage": sum(caches) / len(caches) if caches else None,
        "last_used": max((replica.last_used for replica in replicas if replica.last_used is not None), default=None),
    }


def _total(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None
