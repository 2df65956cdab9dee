"""From a registry and a machine to servers: which engine, which GPUs, which flags, and what does not fit and why.

Pure: the same registry, hardware and facts give the same plan. ``plan`` prints it and ``up`` executes it.

Models that fit beside each other are placed for good. One that fits the machine, but not beside those placed before
it, takes turns: it is planned as if only the pinned ones were there, and whoever is in its way makes room when it is
asked for.

Every model has its first server before one gets a second: ``replicas`` are servers equal to the first, as many as have
their place for good.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

from vllm_launcher.hardware import Hardware
from vllm_launcher.planning.facts import DiffusionFacts, Facts, ModelFacts, facts_of
from vllm_launcher.planning.flags import device_of, missing_permission
from vllm_launcher.planning.needs import refusal
from vllm_launcher.planning.placement import (
    NoRoom,
    Pick,
    Placement,
    emptiest,
    fullest,
    place,
    place_again,
    share_rest,
    widen,
)
from vllm_launcher.planning.plan_cpu import SMALL, CpuBudget, budget_of, plan_cpu
from vllm_launcher.planning.plan_gpu import place_unknown, server_of
from vllm_launcher.planning.plan_omni import place_omni, plan_omni_cpu
from vllm_launcher.planning.planned import Choice, Memory, Plan, PlannedServer, Rejected
from vllm_launcher.planning.replicas import numbered
from vllm_launcher.planning.rooms import Rooms, rooms_of
from vllm_launcher.registry import Registry
from vllm_launcher.registry.entries import ExternalEngine, ModelSpec, OmniEngine, SharedEngine

__all__ = ["Choice", "FactsOf", "Memory", "Plan", "PlannedServer", "Rejected", "plan"]

FactsOf = Callable[[ModelSpec], Facts | None]
"""What is known of an entry's model. The default looks at local paths and the table of known models alone."""

Outcome = PlannedServer | Rejected


def plan(registry: Registry, hardware: Hardware, *, facts: FactsOf = facts_of) -> Plan:
    """Decide what runs where.

    Pinned models are placed first, then those to load at startup, in the order of the file: the first win. Of two
    ways to choose among GPUs with room (spread out, or packed), the one that serves more models is taken, and of two
    equal ones that with fewer in turns.
    """
    known = {spec.id: facts(spec) for spec in registry.models}
    plans = [_Planner(registry, hardware, known, pick).plan() for pick in (emptiest, fullest)]
    return max(plans, key=lambda made: (len(made.servers), -sum(server.shares for server in made.servers)))


@dataclass
class _Planner:
    """One pass over the models; what it has decided so far."""

    registry: Registry
    hardware: Hardware
    known: Mapping[str, Facts | None]
    pick: Pick
    rooms: Rooms = field(init=False)
    budget: CpuBudget = field(init=False)
    outcomes: dict[str, Outcome | Placement] = field(default_factory=dict[str, Outcome | Placement])
    pinned_rooms: Rooms = field(init=False)
    """What the pinned servers leave of the GPUs; and, below, of the processor's memory."""
    pinned_budget: CpuBudget = field(init=False)
    in_turns: dict[str, NoRoom] = field(default_factory=dict[str, NoRoom])
    """What takes turns on GPUs: planned when all others have their memory."""
    more: dict[str, list[PlannedServer | Placement]] = field(
        default_factory=dict[str, list["PlannedServer | Placement"]]
    )
    """Further replicas of a model."""

    def plan(self) -> Plan:
        """GPUs first, then the processor for what found no room on them, then the rest of the GPUs for caches."""
        self.rooms = self.pinned_rooms = rooms_of(self.hardware.gpus)
        own = [spec for spec in self.registry.models if not isinstance(spec.engine, SharedEngine)]
        self.budget = budget_of(self.hardware, self.at_startup(own))
        capacity = {f"gpu:{index}": free for index, free in self.rooms.free.items()} | {"cpu": self.budget.memory}
        refused = {spec.id: no for spec in self.by_priority() if (no := self.on_gpus(spec)) is not None}
        self.budget = self.pinned_budget = replace(self.budget, threads=self.threads(set(refused)))
        for spec in self.by_priority():
            if spec.id in refused:
                self.outcomes[spec.id] = self.elsewhere(spec, refused[spec.id])
        self.add_replicas()
        servers = self.finished()
        self.take_turns([*chain.from_iterable(servers.values())])
        for spec in self.registry.models:
            if isinstance(spec.engine, SharedEngine):
                self.outcomes[spec.id] = _shared(spec.id, spec.engine, self.outcomes[spec.engine.model])
        ordered = [outcome for spec in self.registry.models for outcome in self.of(spec, servers)]
        return Plan(
            servers=tuple(outcome for outcome in ordered if isinstance(outcome, PlannedServer)),
            rejected=tuple(outcome for outcome in ordered if isinstance(outcome, Rejected)),
            capacity=capacity,
        )

    def by_priority(self) -> list[ModelSpec]:
        return sorted(self.registry.models, key=lambda spec: (not spec.residency.pinned, spec.load != "startup"))

    def on_gpus(self, spec: ModelSpec) -> NoRoom | None:
        """Decide for a model that needs no processor; else why it is left for one."""
        facts = self.known[spec.id]
        if isinstance(spec.engine, ExternalEngine):
            self.outcomes[spec.id] = _external(spec)
        elif isinstance(spec.engine, SharedEngine):
            return None  # decided when its owner is
        elif isinstance(facts, ModelFacts) and (missing := missing_permission(spec, facts)):
            self.outcomes[spec.id] = missing
        elif not self.hardware.gpus or device_of(spec) == "cpu":
            return NoRoom()
        else:
            return self.keep(spec, self.placed(spec, facts, self.rooms))
        return None

    def placed(self, spec: ModelSpec, facts: Facts | None, rooms: Rooms) -> PlannedServer | Placement | NoRoom:
        match facts:
            case DiffusionFacts():
                return place_omni(spec, facts, rooms, self.pick) or NoRoom()
            case ModelFacts():
                return place(spec, facts, rooms, self.pick)
            case None:
                return place_unknown(spec, rooms) or NoRoom()

    def keep(self, spec: ModelSpec, placed: PlannedServer | Placement | NoRoom) -> NoRoom | None:
        if isinstance(placed, NoRoom):
            return placed
        self.rooms = self.rooms.take(placed.gpus, placed.memory.total)
        if spec.residency.pinned:
            self.pinned_rooms = self.pinned_rooms.take(placed.gpus, placed.memory.total)
        self.outcomes[spec.id] = placed
        return None

    def threads(self, for_processor: set[str]) -> int:
        specs = [spec for spec in self.registry.models if spec.id in for_processor]
        return budget_of(self.hardware, self.at_startup(specs)).threads

    def at_startup(self, specs: Iterable[ModelSpec]) -> int:
        """How many servers of these start at once."""
        return sum(spec.replicas for spec in specs if spec.load == "startup")

    def add_replicas(self) -> None:
        """Place further servers of the models that want several, in the order of the models, while there is room."""
        for spec in self.by_priority():
            first = self.outcomes.get(spec.id)
            if spec.replicas > 1 and first and not isinstance(first, Rejected) and not getattr(first, "shares", False):
                self.more[spec.id] = list(self.replicas_of(spec, first))

    def replicas_of(self, spec: ModelSpec, first: PlannedServer | Placement) -> Iterator[PlannedServer | Placement]:
        for _ in range(spec.replicas - 1):
            another = self.again(spec, first)
            if another is None:
                return
            yield another

    def again(self, spec: ModelSpec, first: PlannedServer | Placement) -> PlannedServer | Placement | None:
        """One more server equal to the first, if there is room for good."""
        if isinstance(first, PlannedServer) and not first.gpus:
            if first.memory.total > self.budget.memory:
                return None
            another = replace(first, available=self.budget.memory)
            self.budget = self.budget.less(first.memory.total)
            if spec.residency.pinned:
                self.pinned_budget = self.pinned_budget.less(first.memory.total)
            return another
        another = (
            place_again(first, self.rooms, self.pick)
            if isinstance(first, Placement)
            else place_unknown(spec, self.rooms)
        )
        if another is not None:
            self.rooms = self.rooms.take(another.gpus, another.memory.total)
            if spec.residency.pinned:
                self.pinned_rooms = self.pinned_rooms.take(another.gpus, another.memory.total)
        return another

    def of(self, spec: ModelSpec, servers: Mapping[str, Sequence[PlannedServer]]) -> Iterator[Outcome]:
        """What comes of that model in the end: its servers, numbered, or why there are none."""
        outcome = self.outcomes[spec.id]
        if isinstance(outcome, Rejected):
            yield outcome
            return
        placed = servers.get(spec.id) or [
            server for server in (outcome, *self.more.get(spec.id, [])) if isinstance(server, PlannedServer)
        ]
        for number, server in enumerate(placed):
            yield numbered(server, number, len(placed), spec)

    def elsewhere(self, spec: ModelSpec, refused: NoRoom) -> Outcome:
        """What found no room on a GPU: in turns with others there, on the processor, or in turns there, or not at all.

        Small models are quick on a processor; all others are worth a turn on a GPU.
        """
        small = getattr(self.known[spec.id], "parameters", 0) < SMALL
        on_gpu = None if refused.impossible else self.turn_on_gpus(spec, self.pinned_rooms)
        if on_gpu is not None and not small:
            self.in_turns[spec.id] = refused
            return on_gpu
        outcome = self.on_processor(spec, self.budget)
        if device_of(spec) != "cuda" and isinstance(outcome, PlannedServer):
            self.budget = self.budget.less(outcome.memory.total)
            if spec.residency.pinned:
                self.pinned_budget = self.pinned_budget.less(outcome.memory.total)
            return outcome
        if on_gpu is not None:
            self.in_turns[spec.id] = refused
            return on_gpu
        turn = self.on_processor(spec, self.pinned_budget)
        if device_of(spec) != "cuda" and not spec.residency.pinned and isinstance(turn, PlannedServer):
            return _in_turns(turn)
        return self.refused(spec, outcome, refused)

    def turn_on_gpus(self, spec: ModelSpec, rooms: Rooms) -> PlannedServer | None:
        """A server in those rooms, with the rest of its GPUs for its cache."""
        if not self.hardware.gpus or device_of(spec) == "cpu" or spec.residency.pinned:
            return None
        placed = self.placed(spec, self.known[spec.id], rooms)
        if isinstance(placed, Placement):
            rest = rooms.take(placed.gpus, placed.memory.total)
            (placed,) = share_rest([placed], rest)
            return _in_turns(server_of(placed, rest))
        return _in_turns(placed) if isinstance(placed, PlannedServer) else None

    def take_turns(self, servers: Sequence[PlannedServer]) -> None:
        """Plan what takes turns on GPUs: beside those of startup if that is possible, else beside the pinned ones."""
        specs = {spec.id: spec for spec in self.registry.models}
        beside_startup = beside_pinned = rooms_of(self.hardware.gpus)
        for server in self.placed_for_good(servers):
            if not server.on_demand:
                beside_startup = beside_startup.take(server.gpus, server.memory.total)
            if specs[server.model].residency.pinned:
                beside_pinned = beside_pinned.take(server.gpus, server.memory.total)
        for model, refused in self.in_turns.items():
            turns = (self.turn_on_gpus(specs[model], rooms) for rooms in (beside_startup, beside_pinned))
            turn = next((turn for turn in turns if turn is not None), None)
            self.outcomes[model] = turn or self.refused(specs[model], Rejected(model, "", ""), refused)

    def placed_for_good(self, servers: Sequence[PlannedServer]) -> list[PlannedServer]:
        """Servers on GPUs that do not take turns."""
        everything = [*servers, *self.outcomes.values(), *chain.from_iterable(self.more.values())]
        others = (outcome for outcome in everything if isinstance(outcome, PlannedServer))
        return [server for server in others if server.gpus and not server.shares]

    def on_processor(self, spec: ModelSpec, budget: CpuBudget) -> Outcome:
        """On the processor, if that is enough for it."""
        facts, budget = self.known[spec.id], replace(budget, why=self.why_processor(spec))
        if isinstance(spec.engine, OmniEngine):
            return plan_omni_cpu(spec, facts if isinstance(facts, DiffusionFacts) else None, budget)
        return plan_cpu(spec, facts if isinstance(facts, ModelFacts) else None, budget)

    def refused(self, spec: ModelSpec, outcome: Outcome, refused: NoRoom) -> Rejected:
        """The reason about GPUs, with what the processor could do instead."""
        facts, device = self.known[spec.id], device_of(spec)
        if device == "cpu" and isinstance(outcome, Rejected):
            return outcome
        if refused.impossible is not None:
            return Rejected(spec.id, refused.impossible, "name another checkpoint of it, or use a newer GPU")
        if facts is None:
            found = "no GPU is free for it" if self.hardware.gpus else "no NVIDIA GPU was found"
            return Rejected(spec.id, f"{found}, and nothing is known of its size", "fetch it, or add a GPU")
        placed = [model for model, other in self.outcomes.items() if not isinstance(other, Rejected) and other.gpus]
        about_gpus = refusal(spec, facts, self.hardware, placed)
        if device == "cuda" or isinstance(outcome, PlannedServer):
            return about_gpus
        return Rejected(spec.id, f"{about_gpus.reason}; {outcome.reason}", about_gpus.hint)

    def why_processor(self, spec: ModelSpec) -> str:
        if not self.hardware.gpus:
            return "no NVIDIA GPU was found"
        return "set by the entry" if device_of(spec) == "cpu" else "the GPUs have no room left for it"

    def finished(self) -> dict[str, list[PlannedServer]]:
        """Placements as servers, after idle GPUs and spare memory are given out."""
        everything = [*self.outcomes.values(), *chain.from_iterable(self.more.values())]
        placements = [outcome for outcome in everything if isinstance(outcome, Placement)]
        for index, placement in enumerate(placements):
            placements[index], self.rooms = widen(placement, self.rooms)
        servers: dict[str, list[PlannedServer]] = {}
        for placement in share_rest(placements, self.rooms):
            servers.setdefault(placement.spec.id, []).append(server_of(placement, self.rooms))
        return servers


def _in_turns(server: PlannedServer) -> PlannedServer:
    why = "it does not fit beside all the others: whoever is in its way makes room when it is asked for"
    return replace(server, shares=True, reasons=(*server.reasons, Choice("residency", "in turns", why)))


def _external(spec: ModelSpec) -> PlannedServer:
    why = "somebody else runs it; requests go to its URL"
    return PlannedServer(model=spec.id, engine="external", reasons=(Choice("engine", "external", why),))


def _shared(model: str, engine: SharedEngine, owner: Outcome | Placement) -> Outcome:
    if isinstance(owner, Rejected):
        return Rejected(model, f"it uses the server of {engine.model}, which has no place: {owner.reason}", owner.hint)
    why = f"another chain in front of {engine.model}; its requests go to that server"
    return PlannedServer(model=model, engine="shared", reasons=(Choice("engine", "shared", why),))
