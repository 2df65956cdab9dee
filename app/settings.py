"""The app's settings: the only place under ``app/`` that reads the environment.

Every field is the variable ``LANGSERVE_VLLM_<FIELD>``; nested limits are ``LANGSERVE_VLLM_LIMITS__<FIELD>``.
The launcher sets the first four when it starts the app.
"""

import os
import tempfile
from pathlib import Path
from typing import Annotated

from platformdirs import user_data_path
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from vllm_launcher.keys import is_loopback

PREFIX = "LANGSERVE_VLLM_"

Seconds = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


def _split(value: object) -> object:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
"""Separated by commas in the environment."""


class Limits(BaseModel):
    """What one request may ask for. Each limit has its own named error."""

    model_config = ConfigDict(frozen=True)

    body_bytes: Count = 8 * 1024 * 1024
    """Larger bodies get 413 before they are parsed."""
    body_seconds: Seconds = 30
    """A body that takes longer to arrive gets 408."""
    json_depth: Count = 64
    """Deeper nesting gets 422."""
    batch_size: Count = 64
    """Inputs of one batch; more get 413."""
    batch_concurrency: Count = 8
    """Inputs of one batch that are computed at once."""
    messages: Count = 1024
    """Messages of one input; more get 413."""
    choices: Count = 8
    """Answers to one question (OpenAI's n); more get 400."""
    embeddings: Count = 2048
    """Texts of one request for embeddings; more get 413."""
    images: Count = 8
    """Images in one request, where its model does not say; more get 413."""
    image_bytes: Count = 10 * 1024 * 1024
    """Bytes of one image's file; more get 413."""
    image_pixels: Count = 50_000_000
    """Pixels of one image before it is made smaller; more get 413, before it is decoded."""
    image_workers: Count = 2
    """Images that are decoded at once; the others wait."""
    image_body_bytes: Count = 16 * 1024 * 1024
    """Larger bodies for models that take images get 413."""
    image_bodies: Count = 8
    """Such bodies that are read and checked at once; the others wait, unread."""
    pictures: Count = 4
    """Pictures that one request may ask for, where its model does not say; more get 422."""
    picture_pixels: Count = 4_194_304
    """Pixels of one picture, where its model does not say. Drawn, more get 422; given, it is made smaller."""
    picture_steps: Count = 100
    """Steps of one picture; more get 422."""
    shadows: Count = 16
    """Copies of requests under way to the other backend of a model that moves; more are dropped."""
    waiting: Count = 256
    """Requests that wait for one model to load; more get 503."""
    waiting_in_all: Count = 1024
    """Requests that wait for any model to load; more get 503."""
    queue: Count = 512
    """Requests that wait for a place at one model's engine; more get 429, whoever has the most in line first."""
    queue_seconds: Annotated[float, Field(gt=0)] = 60
    """A request that gets no place in this time gets 429."""
    response_bytes: Count = 256 * 1024 * 1024
    """A larger answer is ended with an error."""
    response_seconds: Annotated[float, Field(gt=0)] = 3600
    """An answer that takes longer is ended with an error."""
    reader_seconds: Annotated[float, Field(gt=0)] = 60
    """A client that takes nothing of its answer for so long is cut off."""
    header_bytes: Count = 64 * 1024
    """Of a request's line and headers; more get 431."""
    header_seconds: Annotated[float, Field(gt=0)] = 10
    """A request's head that takes longer to arrive gets 408."""
    connections: Count = 4096
    """Open connections of clients; more are answered 503 and closed."""
    session_bytes: Count = 16 * 1024 * 1024
    """Of one stored conversation; beyond it its oldest turns are deleted."""
    sessions: Count = 10_000
    """Conversations of one owner; beyond it those unused for longest are deleted."""


class Documents(BaseModel):
    """Documents that chains answer from: where they are kept, and what ingesting may take."""

    model_config = ConfigDict(frozen=True)

    store: str | None = None
    """A folder, which belongs to one process, or the URL of a Qdrant server; `<data>/documents` if not set."""
    store_key: SecretStr | None = None
    """The Qdrant server's API key."""
    embedding: str | None = None
    """The id of the model that embeds them; the first of task `embedding` if not set."""
    file_bytes: Count = 64 * 1024 * 1024
    """A larger file gets 413."""
    upload_bytes: Count = 256 * 1024 * 1024
    """All files of one request; more get 413."""
    upload_seconds: Seconds = 600
    """An upload that takes longer to arrive gets 408."""
    files: Count = 256
    """Files of one request; more get 413."""
    pages: Count = 2000
    """Pages of one PDF; more are refused."""
    characters: Count = 5_000_000
    """Of one document's text; more are refused."""
    parse_seconds: Annotated[float, Field(gt=0)] = 120
    """Reading one document ends after so long."""
    waiting: Count = 1024
    """Documents that wait to be ingested; more get 429."""
    waiting_bytes: Count = 1024 * 1024 * 1024
    """Bytes of all that wait; more get 429."""


class Settings(BaseSettings):
    """Everything the app can be told from outside."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_nested_delimiter="__", frozen=True, extra="ignore")

    models: Path = Path("models.json")
    """The registry."""
    control: Path | None = None
    """The launcher's control socket. Without it no model ever gets ready, and status says so."""
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    access_log: bool = False
    workers: Annotated[int, Field(ge=1, le=256)] = 1
    """Processes that serve together on the port, each on a core of its own at most."""
    grpc_port: Annotated[int, Field(ge=0, le=65535)] | None = None
    """Where gRPC is served, on the same host. Off if not set, or 0."""
    grpc_certificate: Path | None = None
    """PEM file of the certificates that gRPC shows, in place of ``tls_cert``: TLS. Without any it is not encrypted."""
    grpc_key: Path | None = None
    """PEM file of the key of the first of them, in place of ``tls_key``."""
    limits: Limits = Limits()
    data: Path = user_data_path("langserve-vllm")
    """What has to be kept: documents. Nothing in it can be made again."""
    documents: Documents = Documents()

    wait_ready: Seconds = 300
    """How long a request waits for its model to get ready, where it does not say (``Prefer: wait=N``)."""
    wait_ready_max: Seconds = 1800
    """The longest wait a request may choose."""
    stream_hold: Seconds = 10
    """How long a stream waits for its model, and then for its first output, so that an error before it still gets a
    status of its own. A stream that waits longer for its model is told how far that is, in comment lines."""
    ping: Annotated[float, Field(gt=0)] = 15
    """Seconds of silence after which an idle stream gets a comment line, which keeps proxies from closing it."""
    fast_path: bool = True
    """Chains of a known kind are streamed past LangChain's machinery for callbacks that nobody listens to; the events
    are the same. False: every request takes LangChain's own way."""
    rehearse: bool = True
    """Let every engine render its chains' prompts once it is ready, which generates nothing; the log tells of a chat
    template that refuses one."""
    drain: Seconds = 8
    """How long requests under way may go on after the app was told to stop."""

    fetch_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    """Hosts whose pages the tool `fetch` may read, with commas between: `example.org`, `*.example.org`, with `:PORT` if
    unusual. Empty: none."""
    image_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    """Hosts that images may be fetched from by address, over https, with commas between; ``*.example.org`` stands for
    every name below it. Empty: none."""
    pictures: Path | None = None
    """Where drawn pictures are kept; by default beside the launcher's control socket."""
    pictures_seconds: Annotated[float, Field(gt=0)] = 86_400
    """How long a drawn picture is kept."""
    pictures_bytes: Count = 512 * 1024 * 1024
    """What all drawn pictures may take on the disk; the oldest go first."""

    engine_connect: Annotated[float, Field(gt=0)] = 5
    """Seconds to reach an engine server."""
    engine_silence: Annotated[float, Field(gt=0)] = 600
    """Seconds an engine may send nothing before the request is given up with 504."""
    engine_connections: Count = 1024
    """Requests under way to all engines together."""
    engine_sequences: Count = 256
    """Requests an engine computes at once where ``limits.max_num_seqs`` of its entry does not say."""
    engine_oversubscription: Annotated[float, Field(ge=1)] = 2
    """So many times that are sent to an engine at once, for it never to be idle; the others wait in a fair line."""

    keys: Path | None = None
    """The file of API keys, which ``keys create`` writes."""
    require_keys: bool = False
    """Ask for API keys on loopback too. On any other address they are always asked for."""
    session_seconds: Annotated[float, Field(gt=0)] = 12 * 3600
    """How long a browser stays signed in."""
    hosts: Names = ()
    """Names the service may be called by, separated by commas; ``*`` for any. By default any where keys are asked for,
    else those of this machine alone."""
    cors_origins: Names = ()
    """Other sites whose pages may call the service, separated by commas: ``https://app.example.com``."""
    audit_log: Path | None = None
    """A file with a line of JSON for each request: who, which model, how many tokens, how it ended."""
    metrics: bool = True
    """Measure requests and answer ``/metrics``."""
    metrics_port: Annotated[int, Field(ge=0, le=65535)] | None = None
    """Answer ``/metrics`` on this port of its own, without a key, and no longer beside the models."""
    metrics_host: str = "127.0.0.1"
    """The address of that port."""
    tls_cert: Path | None = None
    """A certificate chain (PEM): the app speaks HTTPS."""
    tls_key: Path | None = None
    """Its private key (PEM)."""

    @property
    def needs_keys(self) -> bool:
        """Whether requests have to show an API key."""
        return self.require_keys or not is_loopback(self.host)

    @property
    def own_hosts(self) -> frozenset[str]:
        """Names the service may be called by; empty for any."""
        if "*" in self.hosts or (self.needs_keys and not self.hosts):
            return frozenset()
        return frozenset({*self.hosts, *LOOPBACK_NAMES, self.host})

    sessions_url: SecretStr | None = None
    """Where conversations are kept: ``sqlite:///FILE`` or ``postgresql://USER:PASSWORD@HOST/DATABASE``. Without it they
    last as long as the process; the launcher names a file."""
    sessions_ttl: Seconds = 30 * 24 * 3600
    """Seconds after its last turn that a conversation is kept, where its model's entry does not say; 0: for ever."""
    sessions_wait: Seconds = 60
    """Seconds that a request waits for others of its session before it gets 409."""

    @field_validator("image_hosts", "fetch_hosts", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        """Names with commas between."""
        return (
            tuple(name.strip().lower() for name in value.split(",") if name.strip())
            if isinstance(value, str)
            else value
        )

    @property
    def pictures_dir(self) -> Path:
        """Where drawn pictures are kept."""
        beside = self.control.parent if self.control else Path(tempfile.gettempdir()) / f"langserve-vllm-{os.getuid()}"
        return self.pictures or beside / "pictures"

    @property
    def grpc_files(self) -> tuple[Path | None, Path | None]:
        """The certificate and the key that gRPC shows."""
        own = self.grpc_certificate, self.grpc_key
        return own if any(own) else (self.tls_cert, self.tls_key)


def wants_telemetry() -> bool:
    """Whether OpenTelemetry's variables name a collector (``OTEL_EXPORTER_OTLP_ENDPOINT``), and do not disable it."""
    told = os.environ  # noqa: TID251 -- this is the module that may
    named = any(told.get(f"OTEL_EXPORTER_OTLP_{part}ENDPOINT") for part in ("", "TRACES_", "METRICS_"))
    return named and told.get("OTEL_SDK_DISABLED", "").lower() != "true"


def name_metrics_folder(folder: str) -> None:
    """Tell prometheus_client where several workers count, in the one way it knows: its own variable."""
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder  # noqa: TID251 -- this is the module that may


def read_secret(name: str) -> str | None:
    """Read the environment variable that a registry entry names for its key; None where unset or empty."""
    return os.environ.get(name) or None  # noqa: TID251 -- this is the module that may
