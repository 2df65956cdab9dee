"""The tokenizer that a GGUF is served with: the base model's, named by the entry's source.

Servers are kept off the network, so what a hub id names is fetched before, like weights and into the same cache.
"""

from pathlib import Path

from pydantic import ValidationError

from vllm_launcher.fetching.weights import Tools, expected, fetch_weights
from vllm_launcher.fetching.weights_error import WeightsError
from vllm_launcher.planning.planned import PlannedServer
from vllm_launcher.registry.entries import HubSource, ModelSpec
from vllm_launcher.settings import Settings

TELLTALE = "tokenizer_config.json"
"""Every repository with a tokenizer has it; with one file named, what is small beside it is fetched, and no weights."""


def needs_tokenizer(spec: ModelSpec, planned: PlannedServer) -> bool:
    """Whether the plan passes on the tokenizer that the entry's source names; one set by flags is left as it is."""
    named = tokenizer_named(spec)
    return named is not None and planned.flags.get("tokenizer") == named


def tokenizer_named(spec: ModelSpec) -> str | None:
    """The hub id, or the path, that the entry's source names."""
    return spec.source.tokenizer if spec.source is not None else None


async def fetch_tokenizer(spec: ModelSpec, tools: Tools) -> Path:
    """The folder of the tokenizer, fetched unless it is there.

    Raises:
        WeightsError: what is named is neither a path that exists nor a repository that can be had.
    """
    if (local := _local(spec)) is not None:
        return local
    try:
        return (await fetch_weights(_as_spec(spec), tools, dequantize=False)).path
    except WeightsError as error:
        hint = (error.hint or "").replace("source.repo", "source.tokenizer").replace("source.file", "source.tokenizer")
        raise WeightsError(f"The tokenizer of {spec.id}: {error.reason}", hint, permanent=error.permanent) from error


def expected_tokenizer(spec: ModelSpec, settings: Settings) -> Path:
    """Where it is or will be. Nothing is fetched.

    Raises:
        WeightsError: see ``fetch_tokenizer``.
    """
    return _local(spec) or expected(_as_spec(spec), settings, dequantize=False, dtype="")[0]


def _local(spec: ModelSpec) -> Path | None:
    path = Path(tokenizer_named(spec) or "")
    if not path.is_absolute():
        return None
    if not path.is_dir():
        raise WeightsError(f"The tokenizer of {spec.id}: {path} is no folder.", "Correct source.tokenizer.")
    return path


def _as_spec(spec: ModelSpec) -> ModelSpec:
    """The tokenizer as something to fetch. Models that share one share its folder."""
    name = tokenizer_named(spec) or ""
    try:
        source = HubSource(type="hub", repo=name, revision=None, file=TELLTALE, tokenizer=None)
    except ValidationError:
        reason = f"The tokenizer of {spec.id}: {name!r} is neither a hub id nor an absolute path."
        raise WeightsError(reason, "Correct source.tokenizer.") from None
    return ModelSpec.model_construct(id=f"tokenizer-{name.replace('/', '--')}", source=source)
