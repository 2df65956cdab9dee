"""What the launcher says about its servers: the wire types of the control API, shared with the app.

The states of a server, and what each one promises::

    absent ──▶ fetching ──▶ starting ──▶ warming ──▶ ready ──▶ draining ──▶ stopped
                  ▲             │           │          │
                  └── back-off ─┴───────────┴──────────┘  (an exit nobody asked for)
                                          ready ──▶ asleep ──▶ warming  (where vLLM has sleep mode)
                                                       └──▶ failed  (too often: reason and hint say why)

absent    nothing was asked of it yet; ``ensure_ready`` starts it
fetching  its engine is being installed or its weights fetched; no process
starting  a process exists, or is about to (``phase`` tells a queue or a back-off); it answers nothing yet
warming   it answers /health, and has not generated a token
ready     it has just generated a token: the only state with an ``endpoint``
asleep    its process lives, its GPU memory is given back; ``ensure_ready`` wakes it faster than a start would
draining  the endpoint is withdrawn, requests under way may finish, nothing new is sent to it
stopped   asked to end, and no process of it is left
failed    given up on, no process of it is left; ``reason`` says why, ``hint`` what to do where that is known; it
          stays so until somebody who has mended the cause asks to retry
"""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, model_validator

from vllm_launcher.progress import Progress

State = Literal["absent", "fetching", "starting", "warming", "ready", "asleep", "draining", "stopped", "failed"]


class ServerStatus(BaseModel):
    """One model's server, as of now."""

    model_config = ConfigDict(frozen=True)

    model: str
    state: State = "absent"
    phase: str = ""
    """What it is doing, for people: "downloading weights", "waiting 4 s before restart 2"."""
    progress: Progress | None = None
    since: float = 0.0
    """When it entered ``state``: unix seconds."""
    endpoint: str | None = None
    """Base URL without /v1, for example http://127.0.0.1:41003; only while ready."""
    served_name: str
    """The name its requests must carry as ``model``."""
    pid: int | None = None
    restarts: int = 0
    """Starts after the first one, since it was last asked for."""
    reason: str | None = None
    """Why the last attempt ended: the engine's last meaningful log line."""
    hint: str | None = None
    """What a person can do about ``reason``."""
    refused: bool = False
    """Failed without an attempt: the plan has no place for it on this machine."""
    memory_bytes: int | None = None
    """Resident memory of its process tree."""
    requests: int | None = None
    """Requests it is computing or has queued, at the last look."""
    tokens_per_second: float | None = None
    """Generated tokens a second, between the last two looks."""
    cache_usage: float | None = None
    """Part of its KV cache that is in use: 0 to 1."""
    last_used: float | None = None
    """When it last had a request: unix seconds; None before the first one."""
    pinned: bool = False
    """Never unloaded for another's sake."""
    needs: dict[str, int] = {}
    """Bytes it takes while loaded, by pool: ``gpu:0`` …, ``cpu``."""
    replicas: tuple["ServerStatus", ...] = ()
    """Its replicas where it has several; the endpoint above is then the router in front of them."""

    @model_validator(mode="after")
    def _check_endpoint(self) -> Self:
        if self.endpoint is not None and self.state != "ready":
            raise ValueError(f"only a ready server has an endpoint, not one that is {self.state}")
        return self


class LauncherStatus(BaseModel):
    """Everything the launcher knows: one value, sent whole on every change."""

    model_config = ConfigDict(frozen=True)

    version: str
    pid: int
    started_at: float
    """Unix seconds."""
    servers: tuple[ServerStatus, ...] = ()
    generation: int = 0
    """Grows with every change of the list of models that was taken over while running."""
    problem: str | None = None
    """Why the last edit of the list of models was not taken over; None once one was."""
    capacity: dict[str, int] = {}
    """Bytes that servers may take in all, by pool."""

    def server(self, model: str) -> ServerStatus | None:
        """The status of one model, or None if the registry has no such model."""
        return next((server for server in self.servers if server.model == model), None)
