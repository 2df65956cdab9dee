"""From a registry and a machine to servers: which engine, which GPUs, which flags, and what does not fit and why.

Pure: the same registry, hardware and facts give the same plan. ``plan`` prints it and ``up`` executes it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from vllm_launcher.hardware import Hardware
from vllm_launcher.planning.facts import DiffusionFacts, Facts, ModelFacts, facts_of
from vllm_launcher.planning.flags import device_of, missing_permission
from vllm_launcher.planning.needs import refusal
from vllm_launcher.planning.placement import NoRoom, Pick, Placement, emptiest, fullest, place, share_rest, widen
from vllm_launcher.planning.plan_cpu import CpuBudget, budget_of, plan_cpu
from vllm_launcher.planning.plan_gpu import place_unknown, server_of
from vllm_launcher.planning.plan_omni import place_omni, plan_omni_cpu
from vllm_launcher.planning.planned import Choice, Memory, Plan, PlannedServer, Rejected
from vllm_launcher.planning.rooms import Rooms, rooms_of
from vllm_launcher.registry import Registry
from vllm_launcher.registry.entries import ExternalEngine, ModelSpec, OmniEngine

__all__ = ["Choice", "FactsOf", "Memory", "Plan", "PlannedServer", "Rejected", "plan"]

FactsOf = Callable[[ModelSpec], Facts | None]
"""What is known of an entry's model. The default looks at local paths and the table of known models alone."""

Outcome = PlannedServer | Rejected


def plan(registry: Registry, hardware: Hardware, *, facts: FactsOf = facts_of) -> Plan:
    """Decide what runs where.

    Models to load at startup are placed first, in the order of the file: the first entries win. Of two ways to
    choose among GPUs with room (spread out, or packed), the one that serves more models is taken.
    """
    known = {spec.id: facts(spec) for spec in registry.models}
    plans = [_Planner(registry, hardware, known, pick).plan() for pick in (emptiest, fullest)]
    return max(plans, key=lambda made: len(made.servers))


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

    def plan(self) -> Plan:
        """GPUs first, then the processor for what found no room on them, then the rest of the GPUs for caches."""
        self.rooms = rooms_of(self.hardware.gpus)
        self.budget = budget_of(self.hardware, sum(spec.load == "startup" for spec in self.registry.models))
        refused = {spec.id: no for spec in self.by_priority() if (no := self.on_gpus(spec)) is not None}
        self.budget = replace(self.budget, threads=self.threads(set(refused)))
        for spec in self.by_priority():
            if spec.id in refused:
                self.outcomes[spec.id] = self.on_processor(spec, refused[spec.id])
        servers = self.finished()
        ordered = [servers.get(spec.id, self.outcomes[spec.id]) for spec in self.registry.models]
        return Plan(
            servers=tuple(outcome for outcome in ordered if isinstance(outcome, PlannedServer)),
            rejected=tuple(outcome for outcome in ordered if isinstance(outcome, Rejected)),
        )

    def by_priority(self) -> list[ModelSpec]:
        return sorted(self.registry.models, key=lambda spec: spec.load != "startup")

    def on_gpus(self, spec: ModelSpec) -> NoRoom | None:
        """Decide for a model that needs no processor; else why it is left for one."""
        facts = self.known[spec.id]
        if isinstance(spec.engine, ExternalEngine):
            self.outcomes[spec.id] = _external(spec)
        elif isinstance(facts, ModelFacts) and (missing := missing_permission(spec, facts)):
            self.outcomes[spec.id] = missing
        elif not self.hardware.gpus or device_of(spec) == "cpu":
            return NoRoom()
        else:
            return self.keep(spec, self.placed(spec, facts))
        return None

    def placed(self, spec: ModelSpec, facts: Facts | None) -> PlannedServer | Placement | NoRoom:
        match facts:
            case DiffusionFacts():
                return place_omni(spec, facts, self.rooms, self.pick) or NoRoom()
            case ModelFacts():
                return place(spec, facts, self.rooms, self.pick)
            case None:
                return place_unknown(spec, self.rooms) or NoRoom()

    def keep(self, spec: ModelSpec, placed: PlannedServer | Placement | NoRoom) -> NoRoom | None:
        if isinstance(placed, NoRoom):
            return placed
        self.rooms = self.rooms.take(placed.gpus, placed.memory.total)
        self.outcomes[spec.id] = placed
        return None

    def threads(self, for_processor: set[str]) -> int:
        at_startup = [spec for spec in self.registry.models if spec.load == "startup" and spec.id in for_processor]
        return budget_of(self.hardware, len(at_startup)).threads

    def on_processor(self, spec: ModelSpec, refused: NoRoom) -> Outcome:
        """What found no GPU: on the processor if that is enough for it."""
        facts, budget = self.known[spec.id], replace(self.budget, why=self.why_processor(spec))
        if isinstance(spec.engine, OmniEngine):
            outcome = plan_omni_cpu(spec, facts if isinstance(facts, DiffusionFacts) else None, budget)
        else:
            outcome = plan_cpu(spec, facts if isinstance(facts, ModelFacts) else None, budget)
        if device_of(spec) == "cuda" or isinstance(outcome, Rejected):
            return self.refused(spec, outcome, refused)
        self.budget = self.budget.less(outcome.memory.total)
        return outcome

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

    def finished(self) -> dict[str, PlannedServer]:
        """Placements as servers, after idle GPUs and spare memory are given out."""
        placements = [outcome for outcome in self.outcomes.values() if isinstance(outcome, Placement)]
        for index, placement in enumerate(placements):
            placements[index], self.rooms = widen(placement, self.rooms)
        return {placement.spec.id: server_of(placement, self.rooms) for placement in share_rest(placements, self.rooms)}


def _external(spec: ModelSpec) -> PlannedServer:
    why = "somebody else runs it; requests go to its URL"
    return PlannedServer(model=spec.id, engine="external", reasons=(Choice("engine", "external", why),))
