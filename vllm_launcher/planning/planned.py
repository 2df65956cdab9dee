"""What a plan is made of. Values only; sizes are bytes.

A planned server holds neither port nor checkpoint path: both are bound when it starts.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from vllm_launcher.registry.entries import Flag

PROCESSLESS = frozenset({"external", "shared"})
"""What the plan calls the engines of servers that the launcher does not start."""
GIB = 1 << 30
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Memory:
    """What one server takes of one device: of each of its GPUs, or of the machine's memory on a CPU."""

    weights: int = 0
    kv_cache: int = 0
    activations: int = 0
    overhead: int = 0

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.kv_cache + self.activations + self.overhead


@dataclass(frozen=True, slots=True)
class Choice:
    """Something the plan decided, and why."""

    what: str
    value: str
    why: str


@dataclass(frozen=True, slots=True)
class PlannedServer:
    """One engine process group to start.

    ``flags`` and ``env`` are complete but for what is bound at the start. ``available`` is what the device had to
    give when this server was placed. ``plugins`` are packages its engine's environment has to hold.
    ``dequantize``: its GGUF is turned into a plain checkpoint before it is served. ``shares``: it does not fit beside
    all the others, so it is loaded when it is asked for, and others make room. ``sleep``: the level it is put to
    sleep at instead of being stopped. ``replica`` counts from 0 among the servers of one model.
    """

    model: str
    engine: str
    flags: Mapping[str, Flag] = field(default_factory=dict[str, Flag])
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    reasons: tuple[Choice, ...] = ()
    memory: Memory = Memory()
    available: int = 0
    gpus: tuple[int, ...] = ()
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    data_parallel: int = 1
    kv_tokens: int = 0
    plugins: tuple[str, ...] = ()
    dequantize: bool = False
    facts_from: str = "nothing"
    on_demand: bool = False
    shares: bool = False
    sleep: int | None = None
    replica: int = 0

    @property
    def needs(self) -> Mapping[str, int]:
        """Bytes it takes while loaded, by pool: ``gpu:0``, ``gpu:1`` …, or ``cpu`` where it runs without a GPU."""
        return dict.fromkeys([f"gpu:{index}" for index in self.gpus] or ["cpu"], self.memory.total)

    def reason(self, what: str) -> str | None:
        """Why that was chosen."""
        return next((choice.why for choice in self.reasons if choice.what == what), None)


@dataclass(frozen=True, slots=True)
class Rejected:
    """A model this machine does not serve: why, and what would change it."""

    model: str
    reason: str
    hint: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What runs where on this machine, in the order of ``models.json``."""

    servers: tuple[PlannedServer, ...] = ()
    rejected: tuple[Rejected, ...] = ()
    capacity: Mapping[str, int] = field(default_factory=dict[str, int])
    """Bytes that servers may take in all, by pool (``PlannedServer.needs``)."""

    def server(self, model: str) -> PlannedServer | None:
        """The server of that model; the first of its replicas, where it has several."""
        return next(iter(self.replicas(model)), None)

    def replicas(self, model: str) -> tuple[PlannedServer, ...]:
        """All servers of that model."""
        return tuple(server for server in self.servers if server.model == model)


def gib(size: float) -> str:
    """A size as people say it."""
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / MIB:.0f} MiB"
