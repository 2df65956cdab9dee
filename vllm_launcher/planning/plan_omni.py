"""Servers of diffusion models, by vLLM-Omni. Pure."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from vllm_launcher.hardware import Gpu
from vllm_launcher.planning.flags import ENGINE_ENV, device_of, override, own_env
from vllm_launcher.planning.memory import CPU_PROCESSES
from vllm_launcher.planning.model_facts import DiffusionFacts
from vllm_launcher.planning.placement import Pick
from vllm_launcher.planning.plan_cpu import CpuBudget, thread_env
from vllm_launcher.planning.plan_gpu import device_env
from vllm_launcher.planning.planned import GIB, MIB, Choice, Memory, PlannedServer, Rejected, gib
from vllm_launcher.planning.rooms import Rooms
from vllm_launcher.planning.variants import NATIVE_FP8, dtype_on
from vllm_launcher.registry.entries import Flag, ModelSpec

STAGE_DEFAULTS = ("num_inference_steps", "guidance_scale", "true_cfg_scale", "seed")
"""What the server itself may assume of a request that does not say; the rest travels with each request."""

DRAWING_ROOM = 4 * GIB
"""Latents, attention and the decoder of one image of about a million pixels."""

FP8 = json.dumps({"method": "fp8", "activation_scheme": "dynamic"})
OFFLOAD = json.dumps({"mode": "module", "components": ["dit", "text_encoder"]})

LARGEST_ON_CPU = 2_000_000_000
"""Parameters. A step reads and multiplies all of them for every patch: more takes minutes an image."""


def plan_omni_cpu(spec: ModelSpec, facts: DiffusionFacts | None, budget: CpuBudget) -> PlannedServer | Rejected:
    """A server for that image model on the processor, or why not."""
    memory = _cpu_memory(facts)
    if memory.total > budget.memory:
        reason = f"on the processor it needs {gib(memory.total)} of memory, and {gib(budget.memory)} are free for it"
        return Rejected(spec.id, reason, "add memory or a GPU, or name a smaller model")
    if facts is not None and facts.parameters > LARGEST_ON_CPU and device_of(spec) != "cpu":
        reason = "a processor would take minutes an image"
        return Rejected(spec.id, reason, 'add a GPU, or insist with "engine": {"type": "vllm-omni", "device": "cpu"}')
    choices = [
        Choice("engine", "vllm-omni-cpu", budget.why),
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


@dataclass(frozen=True, slots=True)
class Layout:
    """One way to hold a pipeline on one GPU: how much of it at once, with which flags, and why."""

    size: int
    label: str
    why: str
    flags: Mapping[str, Flag] = field(default_factory=dict[str, Flag])


def layouts(facts: DiffusionFacts, capability: tuple[int, int]) -> Iterator[Layout]:
    """The most exact and fastest first: all of it in 16 bits, the transformer in 8, one part at a time, both."""
    whole = facts.parameters * 2
    largest = max(facts.parts.values()) * 2
    transformer = facts.parts.get("transformer", facts.parts.get("unet", 0))
    halved = {name: count * (1 if name in ("transformer", "unet") else 2) for name, count in facts.parts.items()}
    yield Layout(whole, "whole", "all parts stay on the GPU")
    fp8: dict[str, Flag] = {"diffusion-quantization-config": FP8}
    offload: dict[str, Flag] = {"diffusion-offload-config": OFFLOAD}
    if transformer and capability >= NATIVE_FP8:
        yield Layout(sum(halved.values()), "FP8", "16 bits do not fit; this GPU computes in FP8", fp8)
    yield Layout(largest, "turns", "parts take turns on the GPU: they do not fit together, each alone does", offload)
    if transformer and capability >= NATIVE_FP8:
        why = "neither fits alone: the transformer in FP8, and parts take turns"
        yield Layout(max(halved.values()), "FP8 and turns", why, {**fp8, **offload})


def place_omni(spec: ModelSpec, facts: DiffusionFacts, rooms: Rooms, pick: Pick) -> PlannedServer | None:
    """A server on one GPU, or None if none has the room."""
    for group in rooms.groups():
        for layout in layouts(facts, group[0].compute_capability):
            memory = Memory(weights=layout.size, activations=DRAWING_ROOM, overhead=GIB)
            if chosen := pick(rooms, group, 1, memory.total):
                return _gpu_server(spec, facts, layout, memory, rooms.gpu(chosen[0]))
    return None


def _gpu_server(spec: ModelSpec, facts: DiffusionFacts, layout: Layout, memory: Memory, gpu: Gpu) -> PlannedServer:
    dtype, why = dtype_on(gpu.compute_capability)
    choices = [
        Choice("engine", "vllm-omni-cuda", f"1 x {gpu.name}"),
        Choice("dtype", dtype, why),
        Choice("layout", layout.label, layout.why),
    ]
    flags: dict[str, Flag] = {"dtype": dtype, **layout.flags, **omni_flags(spec, facts, choices)}
    return PlannedServer(
        model=spec.id,
        engine="vllm-omni-cuda",
        flags=override(spec, flags, choices),
        env={**ENGINE_ENV, **device_env((gpu.index,)), **own_env(spec)},
        reasons=tuple(choices),
        memory=memory,
        available=gpu.memory_free,
        gpus=(gpu.index,),
        facts_from=facts.origin,
        on_demand=spec.load == "on-demand",
    )


def omni_flags(spec: ModelSpec, facts: DiffusionFacts | None, choices: list[Choice]) -> dict[str, Flag]:
    """Flags that depend on the pipeline alone; each is noted in ``choices``."""
    flags: dict[str, Flag] = {}
    if facts is not None and not facts.native:
        flags["diffusion-load-format"] = "diffusers"
        choices.append(Choice("diffusion-load-format", "diffusers", f"vLLM-Omni has no {facts.pipeline} of its own"))
    if defaults := spec.drawing.model_dump(include=set(STAGE_DEFAULTS), exclude_none=True):
        flags["default-sampling-params"] = json.dumps({"0": defaults}, sort_keys=True)
    if spec.limits.max_pixels is not None:
        flags["max-generated-image-size"] = spec.limits.max_pixels
        choices.append(Choice("max-generated-image-size", str(spec.limits.max_pixels), "set by limits"))
    return flags


def _cpu_memory(facts: DiffusionFacts | None) -> Memory:
    weights = facts.parameters * 4 if facts is not None else GIB
    return Memory(weights=weights, activations=256 * MIB, overhead=CPU_PROCESSES // 2)
