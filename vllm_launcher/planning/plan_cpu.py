"""Servers on a machine's processor: what fits its memory and is fast enough to be of use.

Pure. Everything on one machine shares one pool of memory and one set of cores.
"""

from dataclasses import dataclass, replace

from vllm_launcher.hardware import Hardware
from vllm_launcher.planning.architectures import ENCODERS
from vllm_launcher.planning.facts import gguf_file
from vllm_launcher.planning.flags import (
    ENGINE_ENV,
    common_flags,
    context_of,
    device_of,
    dtype_bytes,
    override,
    own_env,
    own_flags,
    sequences_of,
)
from vllm_launcher.planning.memory import CPU_PROCESSES, cache_bytes
from vllm_launcher.planning.model_facts import ModelFacts
from vllm_launcher.planning.planned import GIB, MIB, Choice, Memory, PlannedServer, Rejected, gib
from vllm_launcher.registry.entries import Flag, ModelSpec

RESERVE = GIB
"""Left to the app, the launcher and the system."""

CONTEXT_CAP = 8192
CACHE_SHARE = 8
UNKNOWN_CACHE = 512 * MIB
LEAST_CACHE = 64 * MIB

READ_BYTES_PER_CORE = 6 * GIB
READ_BYTES_LIMIT = 40 * GIB
"""Decoding reads every active weight once a token. Measured: 27 tokens/s of 269 MB with one thread, 6.8 GiB/s; a
desktop's two memory channels deliver 40 GiB/s to all cores together."""

SMALL = 500_000_000
"""Parameters below which a model computes in float32: it costs little memory, and the rounding of 16-bit units
changes what a small model says (measured: SmolLM2-135M names the capital of France in float32, not with AMX)."""

SLOWEST = 3.0
"""Tokens a second below which nobody waits for an answer."""


@dataclass(frozen=True, slots=True)
class CpuBudget:
    """What is left for further servers; ``threads`` is each one's share of the cores, ``why`` no GPU is used."""

    memory: int
    threads: int
    why: str = "no NVIDIA GPU was found"

    def less(self, size: int) -> "CpuBudget":
        """The same after a server of that size."""
        return replace(self, memory=max(0, self.memory - size))


def budget_of(hardware: Hardware, servers: int) -> CpuBudget:
    """One core stays free for what is not computing: the API processes, the app. Servers share the others."""
    available = max(0, hardware.memory_available - RESERVE)
    return CpuBudget(
        memory=available if hardware.memory_limit is None else min(available, hardware.memory_limit),
        threads=max(1, (hardware.cores - 1) // max(1, servers)),
    )


def plan_cpu(spec: ModelSpec, facts: ModelFacts | None, budget: CpuBudget) -> PlannedServer | Rejected:
    """A server for that model on the processor, or why not."""
    if facts is not None and (rejected := _unfit(spec, facts, budget)):
        return rejected
    return _server(spec, facts, budget)


def speed(facts: ModelFacts, threads: int) -> float:
    """Tokens a second of one stream, estimated from what the memory can deliver."""
    return min(READ_BYTES_PER_CORE * threads, READ_BYTES_LIMIT) / (facts.active * 2)


def _unfit(spec: ModelSpec, facts: ModelFacts, budget: CpuBudget) -> Rejected | None:
    if facts.quantization not in (None, "gguf"):
        reason = f"its weights are quantized ({facts.quantization}), which no processor computes with"
        return Rejected(spec.id, reason, "name the unquantized model, or a GGUF, which is dequantized for a processor")
    need = _memory(spec, facts, *_lengths(spec, facts)).total
    if need > budget.memory:
        reason = f"on the processor it needs {gib(need)} of memory, and {gib(budget.memory)} are free for it"
        return Rejected(spec.id, reason, "add memory or a GPU, or name a smaller model")
    tokens = speed(facts, budget.threads) * 2 / _width(spec, facts)
    if spec.task != "embedding" and tokens < SLOWEST and device_of(spec) != "cpu":
        reason = f"this processor would give about {tokens:.1f} tokens a second"
        return Rejected(spec.id, reason, 'add a GPU, or insist with "engine": {"type": "vllm", "device": "cpu"}')
    return None


def _server(spec: ModelSpec, facts: ModelFacts | None, budget: CpuBudget) -> PlannedServer:
    tokens, sequences = _lengths(spec, facts)
    memory = _memory(spec, facts, tokens, sequences)
    flags, choices = common_flags(spec, facts, "cpu")
    choices += _choices(spec, facts, memory, budget)
    flags |= _flags(spec, facts, memory, tokens, sequences)
    return PlannedServer(
        model=spec.id,
        engine="vllm-cpu",
        flags=override(spec, flags, choices),
        env={**ENGINE_ENV, **thread_env(budget.threads), **own_env(spec)},
        reasons=tuple(choices),
        memory=memory,
        available=budget.memory,
        kv_tokens=_cache_tokens(spec, tokens, sequences) if facts is not None and not _encodes(facts) else 0,
        dequantize=gguf_file(spec) is not None,
        facts_from=facts.origin if facts is not None else "nothing yet",
        on_demand=spec.load == "on-demand",
    )


def thread_env(threads: int) -> dict[str, str]:
    """Threads unbound: bound ones of several servers would sit on the same cores."""
    return {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": str(threads)}


def _flags(spec: ModelSpec, facts: ModelFacts | None, memory: Memory, tokens: int, sequences: int) -> dict[str, Flag]:
    flags: dict[str, Flag] = {
        "dtype": _dtype(facts)[0],
        "enforce-eager": True,
        "max-num-seqs": sequences,
        "kv-cache-memory-bytes": memory.kv_cache,  # unset, vLLM asks for 92 % of the machine, also where it needs none
    }
    if spec.task != "embedding" or spec.limits.max_model_len is not None:
        flags["max-model-len"] = tokens
    return flags


def _choices(spec: ModelSpec, facts: ModelFacts | None, memory: Memory, budget: CpuBudget) -> list[Choice]:
    tokens, context_why = context_of(spec, facts, CONTEXT_CAP)
    sequences, sequences_why = sequences_of(spec, "cpu")
    choices = [
        Choice("engine", "vllm-cpu", budget.why),
        Choice("max-num-seqs", str(sequences), sequences_why),
        Choice("enforce-eager", "true", "compiling costs minutes at every start and gains little on a processor"),
        Choice("threads", str(budget.threads), "one core is left to the API; servers share the others"),
    ]
    if spec.task != "embedding" or spec.limits.max_model_len is not None:
        choices.append(Choice("max-model-len", str(tokens), context_why))
    choices.append(Choice("dtype", *_dtype(facts)))
    if spec.residency.sleep is not None:
        choices.append(Choice("sleep", "off", "vLLM has no sleep mode on a processor: it is stopped instead"))
    if gguf_file(spec):
        choices.append(Choice("weights", "dequantized", "the GGUF kernels need a GPU; converted once, at the fetch"))
    if facts is not None and not _encodes(facts):
        cached = _cache_tokens(spec, tokens, sequences)
        eighth = "one request of full length: embeddings are done after one pass"
        why = f"{cached} tokens: " + (
            eighth if spec.task == "embedding" else f"an eighth of {sequences} requests of full length, at least one"
        )
        choices.append(Choice("kv-cache-memory-bytes", str(memory.kv_cache), why))
    return choices


def _lengths(spec: ModelSpec, facts: ModelFacts | None) -> tuple[int, int]:
    return context_of(spec, facts, CONTEXT_CAP)[0], sequences_of(spec, "cpu")[0]


def _memory(spec: ModelSpec, facts: ModelFacts | None, tokens: int, sequences: int) -> Memory:
    if facts is None:
        return Memory(kv_cache=UNKNOWN_CACHE, overhead=CPU_PROCESSES)
    width = _width(spec, facts)
    cached = 0 if _encodes(facts) else cache_bytes(facts, _cache_tokens(spec, tokens, sequences), dtype_bytes=width)
    return Memory(
        weights=facts.parameters * width,
        kv_cache=max(LEAST_CACHE, -(-cached // MIB) * MIB),
        activations=int(2 * 2048 * (4 * facts.hidden + 3 * facts.intermediate)),
        overhead=CPU_PROCESSES,
    )


def _dtype(facts: ModelFacts | None) -> tuple[str, str]:
    """The type to compute in, and why."""
    if _encodes(facts):
        return "float32", "small, and so exact: its vectors equal the original's"
    if facts is not None and facts.parameters < SMALL:
        return "float32", "a small model: the memory is cheap, and rounding changes what it says"
    return "bfloat16", "half of float32 to read for every token"


def _width(spec: ModelSpec, facts: ModelFacts | None) -> int:
    """Bytes of a number: of the type the entry asks for, else of the one chosen here."""
    if own_flags(spec).get("dtype") is not None:
        return dtype_bytes(spec)
    return 4 if _dtype(facts)[0] == "float32" else 2


def _encodes(facts: ModelFacts | None) -> bool:
    return facts is not None and facts.architecture in ENCODERS


def _cache_tokens(spec: ModelSpec, tokens: int, sequences: int) -> int:
    """On a processor requests queue for the cores long before they fill a cache for the worst case."""
    return tokens * (1 if spec.task == "embedding" else max(1, sequences // CACHE_SHARE))
