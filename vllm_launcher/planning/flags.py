"""Flags and variables that every vLLM server of ours gets, and those that follow from what a model is.

Each choice carries its reason. An entry's own ``flags`` and ``env`` win over all of them.
"""

import json
from collections.abc import Iterator, Mapping

from vllm_launcher.planning.architectures import Family, family_of
from vllm_launcher.planning.model_facts import ModelFacts
from vllm_launcher.planning.planned import Choice, Rejected
from vllm_launcher.registry.entries import ExternalEngine, Flag, ModelSpec, Sampling, SharedEngine

SHUTDOWN_SECONDS = 30
"""How long a server lets open streams finish when it is told to stop."""

NO_DOMAIN = "no-remote-media.invalid"
"""vLLM fetches from any host unless one is named; a name under .invalid never resolves (RFC 2606)."""

DEFAULT_SEQUENCES = {"cpu": 16, "cuda": 128}

GENERATION_DEFAULTS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
"""What vLLM takes from a generation config; the rest of ``sampling`` travels with each request."""

ENGINE_ENV: Mapping[str, str] = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_DO_NOT_TRACK": "1",
    "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0",
}
"""Off the network: weights are on disk when a server starts, and nothing is reported home."""


def common_flags(spec: ModelSpec, facts: ModelFacts | None, device: str) -> tuple[dict[str, Flag], list[Choice]]:
    """Flags of a vLLM server that depend on the model, not on where it runs; and why each was chosen."""
    choices = list(_choices(spec, facts, device))
    flags: dict[str, Flag] = {
        "shutdown-timeout": SHUTDOWN_SECONDS,
        "disable-access-log-for-endpoints": "/health,/metrics,/v1/models",
        "generation-config": "auto",
    }
    if defaults := _generation_defaults(spec.sampling):
        flags["override-generation-config"] = json.dumps(defaults, sort_keys=True)
    if facts is not None:
        flags.update(family(spec, facts).flags)
    for choice in choices:
        flags[choice.what] = _typed(choice.value)
        if choice.what == "tool-call-parser":
            flags["enable-auto-tool-choice"] = True
    return flags, choices


def context_of(spec: ModelSpec, facts: ModelFacts | None, cap: int) -> tuple[int, str]:
    """Tokens of context to serve, and why: what the entry says, else the model's own up to ``cap``."""
    if isinstance(given := own_flags(spec).get("max-model-len"), int):
        return given, "set by flags"
    if spec.limits.max_model_len is not None:
        return spec.limits.max_model_len, "set by limits"
    if facts is None:
        return cap, "nothing is known of the model yet"
    if facts.context <= cap:
        return facts.context, "the model's own context"
    return cap, f"of the model's {facts.context}; raise it with limits.max_model_len"


def sequences_of(spec: ModelSpec, device: str) -> tuple[int, str]:
    """Requests computed at once, and why."""
    if isinstance(given := own_flags(spec).get("max-num-seqs"), int):
        return given, "set by flags"
    if spec.limits.max_num_seqs is not None:
        return spec.limits.max_num_seqs, "set by limits"
    return DEFAULT_SEQUENCES[device], f"usual on a {device.upper() if device == 'cpu' else 'GPU'}"


def own_flags(spec: ModelSpec) -> Mapping[str, Flag]:
    """The entry's own flags."""
    return {} if isinstance(spec.engine, ExternalEngine | SharedEngine) else spec.engine.flags


def own_env(spec: ModelSpec) -> Mapping[str, str]:
    """The entry's own variables."""
    return {} if isinstance(spec.engine, ExternalEngine | SharedEngine) else spec.engine.env


def dtype_bytes(spec: ModelSpec) -> int:
    """Bytes of a number in the type the entry asks for; 16 bits if it asks for none."""
    return 4 if own_flags(spec).get("dtype") in ("float32", "float") else 2


def device_of(spec: ModelSpec) -> str:
    """Where the entry wants to run: auto, cpu or cuda."""
    return "auto" if isinstance(spec.engine, ExternalEngine | SharedEngine) else spec.engine.device


def missing_permission(spec: ModelSpec, facts: ModelFacts) -> Rejected | None:
    """A model whose tokenizer or config is code of its own repository runs only where the entry allows it."""
    if not facts.remote_code or own_flags(spec).get("trust-remote-code") is True:
        return None
    reason = "its tokenizer is program code of its own repository, and the entry does not allow running it"
    return Rejected(spec.id, reason, 'pin a revision and add "flags": {"trust-remote-code": true}')


def override(spec: ModelSpec, flags: Mapping[str, Flag], choices: list[Choice]) -> dict[str, Flag]:
    """The planned flags with the entry's own on top; null drops one. Choices it overrules are marked so."""
    own = own_flags(spec)
    merged: dict[str, Flag] = {name: value for name, value in {**flags, **own}.items() if value is not None}
    for index, choice in enumerate(choices):
        if choice.what in own:
            choices[index] = Choice(choice.what, str(own[choice.what]), "set by flags")
    if "enable-auto-tool-choice" in merged and "tool-call-parser" not in merged:
        del merged["enable-auto-tool-choice"]  # vLLM refuses the one without the other
    return merged


def family(spec: ModelSpec, facts: ModelFacts) -> Family:
    """The family of a model, by its architecture and its names."""
    source = spec.source
    names = (getattr(source, name, None) for name in ("repo", "package", "path", "file", "tokenizer"))
    return family_of(facts.architecture, *names)


def _choices(spec: ModelSpec, facts: ModelFacts | None, device: str) -> Iterator[Choice]:
    if spec.task == "embedding":
        yield Choice("runner", "pooling", "the task is embedding")
        return
    if facts is not None:
        yield from _parser_choices(family(spec, facts), facts)
    if spec.task == "vision-chat":
        images = spec.limits.max_images or 1
        yield Choice(
            "limit-mm-per-prompt", json.dumps({"image": images, "video": 0}), "images alone, so many a request"
        )
        yield Choice("allowed-media-domains", NO_DOMAIN, "no server fetches a URL that a client names")
    if (
        device == "cuda"
        and facts is not None
        and facts.quantization == "gguf"
        and (tokenizer := getattr(spec.source, "tokenizer", None))
    ):
        yield Choice(
            "tokenizer", str(tokenizer), "the base model's: a GGUF's own converts slowly and not always rightly"
        )


def _parser_choices(known: Family, facts: ModelFacts) -> Iterator[Choice]:
    if known.tools:
        yield Choice("tool-call-parser", known.tools, f"how {facts.architecture} writes tool calls")
    if known.reasoning:
        yield Choice("reasoning-parser", known.reasoning, f"how {facts.architecture} sets its reasoning apart")
    if known.flags:
        yield from (Choice(name, str(value), known.why) for name, value in known.flags.items())


def _generation_defaults(sampling: Sampling) -> dict[str, float]:
    values = sampling.model_dump(include=set(GENERATION_DEFAULTS))
    return {name: value for name, value in values.items() if value is not None}


def _typed(value: str) -> Flag:
    return int(value) if value.isdigit() else value
