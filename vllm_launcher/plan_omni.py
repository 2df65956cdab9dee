"""Servers of diffusion models, by vLLM-Omni. Pure."""

import json

from vllm_launcher.entries import Drawing, Flag, ModelSpec
from vllm_launcher.facts import DiffusionFacts
from vllm_launcher.flags import ENGINE_ENV, override, own_env
from vllm_launcher.memory import CPU_PROCESSES
from vllm_launcher.plan_cpu import CpuBudget, thread_env
from vllm_launcher.planned import GIB, MIB, Choice, Memory, PlannedServer, Rejected, gib

LARGEST_ON_CPU = 2_000_000_000
"""Parameters. A step reads and multiplies all of them for every patch: more takes minutes an image."""


def plan_omni_cpu(spec: ModelSpec, facts: DiffusionFacts | None, budget: CpuBudget) -> PlannedServer | Rejected:
    """A server for that image model on the processor, or why not."""
    memory = _cpu_memory(facts)
    if memory.total > budget.memory:
        reason = f"needs {gib(memory.total)} of memory, {gib(budget.memory)} are free for it; no GPU was found"
        return Rejected(spec.id, reason, "add memory or a GPU, or name a smaller model")
    if facts is not None and facts.parameters > LARGEST_ON_CPU and getattr(spec.engine, "device", "auto") != "cpu":
        reason = (
            f"no GPU was found, and {facts.parameters / 1e9:.0f} billion parameters take a processor minutes an image"
        )
        return Rejected(spec.id, reason, 'add a GPU, or insist with "engine": {"type": "vllm-omni", "device": "cpu"}')
    choices = [
        Choice("engine", "vllm-omni-cpu", "no NVIDIA GPU was found"),
        Choice("dtype", "float32", "diffusion kernels of a processor are made for it"),
        Choice("diffusion-attention-backend", "TORCH_SDPA", "the one that runs without a GPU"),
        Choice("threads", str(budget.threads), "one core is left to the API; servers share the others"),
    ]
    flags: dict[str, Flag] = {"dtype": "float32", "diffusion-attention-backend": "TORCH_SDPA"}
    flags |= omni_flags(spec, facts, choices)
    return PlannedServer(
        model=spec.id,
        engine="vllm-omni-cpu",
        flags=override(spec, flags, choices),
        env={**ENGINE_ENV, **thread_env(budget.threads), **own_env(spec)},
        reasons=tuple(choices),
        memory=memory,
        available=budget.memory,
        facts_from=facts.origin if facts is not None else "nothing yet",
        on_demand=spec.load == "on-demand",
    )


def omni_flags(spec: ModelSpec, facts: DiffusionFacts | None, choices: list[Choice]) -> dict[str, Flag]:
    """Flags that depend on the pipeline alone; each is noted in ``choices``."""
    flags: dict[str, Flag] = {}
    if facts is not None and not facts.native:
        flags["diffusion-load-format"] = "diffusers"
        choices.append(Choice("diffusion-load-format", "diffusers", f"vLLM-Omni has no {facts.pipeline} of its own"))
    if spec.limits.max_pixels is not None:
        flags["max-generated-image-size"] = spec.limits.max_pixels
        choices.append(Choice("max-generated-image-size", str(spec.limits.max_pixels), "set by limits"))
    return flags


def drawing_defaults(drawing: Drawing) -> str:
    """An entry's defaults as JSON, in the names of the images API."""
    return json.dumps(drawing.model_dump(exclude_none=True), sort_keys=True)


def _cpu_memory(facts: DiffusionFacts | None) -> Memory:
    weights = facts.parameters * 4 if facts is not None else GIB
    return Memory(weights=weights, activations=256 * MIB, overhead=CPU_PROCESSES // 2)
