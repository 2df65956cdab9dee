"""From a registry and a machine to servers: which engine, which GPUs, which flags, and what does not fit and why.

Pure: the same registry, hardware and facts give the same plan. ``plan`` prints it and ``up`` executes it.
"""

from collections.abc import Callable, Iterator

from vllm_launcher.entries import ExternalEngine, ModelSpec
from vllm_launcher.facts import Facts, facts_of
from vllm_launcher.hardware import Hardware
from vllm_launcher.plan_cpu import CpuBudget, budget_of, plan_cpu
from vllm_launcher.planned import Choice, Memory, Plan, PlannedServer, Rejected
from vllm_launcher.registry import Registry

__all__ = ["Choice", "FactsOf", "Memory", "Plan", "PlannedServer", "Rejected", "plan"]

FactsOf = Callable[[ModelSpec], Facts | None]
"""What is known of an entry's model. The default looks at local paths and the table of known models alone."""


def plan(registry: Registry, hardware: Hardware, *, facts: FactsOf = facts_of) -> Plan:
    """Decide what runs where.

    Models to load at startup are placed first, in the order of the file: the first entries win.
    """
    placed = {outcome.model: outcome for outcome in _place(registry, hardware, facts)}
    outcomes = [placed[spec.id] for spec in registry.models]
    return Plan(
        servers=tuple(outcome for outcome in outcomes if isinstance(outcome, PlannedServer)),
        rejected=tuple(outcome for outcome in outcomes if isinstance(outcome, Rejected)),
    )


def by_priority(registry: Registry) -> list[ModelSpec]:
    """Startup models, then those on demand; each in the order of the file."""
    return sorted(registry.models, key=lambda spec: spec.load != "startup")


def _place(registry: Registry, hardware: Hardware, facts: FactsOf) -> Iterator[PlannedServer | Rejected]:
    local = [spec for spec in by_priority(registry) if not isinstance(spec.engine, ExternalEngine)]
    yield from (_external(spec) for spec in registry.models if isinstance(spec.engine, ExternalEngine))
    at_startup = sum(spec.load == "startup" for spec in local)
    budget = budget_of(hardware, at_startup)
    for spec in local:
        outcome = plan_cpu(spec, facts(spec), budget)
        if isinstance(outcome, PlannedServer):
            budget = CpuBudget(budget.memory - outcome.memory.total, budget.threads)
        yield outcome


def _external(spec: ModelSpec) -> PlannedServer:
    why = "somebody else runs it; requests go to its URL"
    return PlannedServer(model=spec.id, engine="external", reasons=(Choice("engine", "external", why),))
