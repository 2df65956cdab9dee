"""The model factory: a registry entry becomes a Runnable.

A package's ``build_chain`` gets a chat model that reaches whatever server is ready, so a chain exists from the first
second, whether its model does or not.
"""

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import httpx2
from chat_vllm import ChatVLLM, CompletionChat, ConfigurableChat, configurable
from langchain_core.messages import BaseMessage
from langchain_core.prompt_values import PromptValue
from langchain_core.runnables import Runnable, RunnableLambda
from pydantic import SecretStr

from app.engines.connection import Connections
from app.engines.endpoint import BASE_URL, EndpointTransport
from app.engines.engine import Engine
from app.engines.migration import MigratingTransport, OtherBackend, Shadows
from app.engines.table import ServerTable
from app.engines.transport import DeferredTransport
from app.guard.passage import GuardedEngine, Passages
from app.images import ImageCheck
from app.memory.chain import Habits, remembering
from app.memory.counting import Counter
from app.memory.turntaking import TurnTaking
from app.settings import Limits, Settings, read_secret
from vllm_launcher.registry import ChainRef, ExternalEngine, ModelSpec, Registry
from vllm_launcher.registry.entries import Migration

if TYPE_CHECKING:
    from image_generation import ImageLimits, ImageModel
    from image_generation.model import Keep

Chain = Runnable[Any, Any]

Offers = Mapping[str, Callable[[ModelSpec], Any]]
"""What a package may ask for beside its model, by the name of a parameter of its ``build_chain``; made for its entry.
What makes it raises ValueError where the entry does not say what it needs."""

NO_KEY = SecretStr("EMPTY")
"""What the openai SDK sends where no key is asked for."""


class ChainError(Exception):
    """A chain cannot be built: its package is missing, or does not build one."""


@dataclass(frozen=True)
class Remembering:
    """What chains need to remember conversations; ``ttl`` in seconds, 0: for ever."""

    turns: TurnTaking
    ttl: float


@dataclass(frozen=True)
class EngineAccess:
    """What chat models need to reach their engines.

    ``connections`` is shared by all of them and belongs to whoever made it.
    """

    table: ServerTable
    connections: httpx2.AsyncBaseTransport
    timeout: httpx2.Timeout
    wait: float = 300.0
    """Seconds that a request waits for the next server where it met one on its way out."""
    guard: Passages | None = None
    """Stands before the ways to the engines."""
    registry: Registry | None = None
    """Tells whose server an entry uses that has none of its own."""
    limits: Limits = field(default_factory=Limits)
    images: ImageCheck = field(default_factory=lambda: ImageCheck(Limits()))
    """What every image passes on its way to a model."""
    keep: "Keep | None" = None
    """Keeps drawn pictures; returns where each can be seen."""
    shadows: Shadows | None = None
    """Runs the copies of requests to models that move between two backends; without it none moves."""
    memory: Remembering | None = None
    """With it, chains remember what is said in a session."""
    short: Connections | None = None
    """Connections for what is streamed; without them everything goes by ``connections``."""
    offers: Offers = field(default_factory=dict[str, Callable[[ModelSpec], Any]])
    """What packages may ask for beside their model."""

    async def aclose(self) -> None:
        """End every copy of a request, and every connection."""
        if self.shadows is not None:
            await self.shadows.aclose()
        await self.connections.aclose()
        if self.short is not None:
            await self.short.aclose()

    def engine(self, model: str) -> Engine | GuardedEngine | None:
        """Return the short way to the ready server of ``model``; a model that moves has none."""
        if self.short is None or self._migration(model):
            return None
        engine = Engine(model, self.table, self.short, wait=self.wait)
        return engine if self.guard is None else self.guard.engine(model, engine)

    def client(self, model: str) -> httpx2.AsyncClient:
        """Return a client whose requests go to the ready server of ``model``."""
        transport: httpx2.AsyncBaseTransport = EndpointTransport(model, self.table, self.connections, wait=self.wait)
        migration = self._migration(model)
        if migration is not None and self.shadows is not None:
            key = read_secret(migration.api_key_env) if migration.api_key_env else None
            other = OtherBackend(migration, key, self.connections)
            transport = MigratingTransport(model, transport, other, self.shadows)
        if self.guard is not None:
            transport = self.guard.transport(model, transport)
        return httpx2.AsyncClient(transport=transport, timeout=self.timeout, trust_env=False)

    def _migration(self, model: str) -> Migration | None:
        spec = self.registry.get(model) if self.registry else None
        return spec.migration if spec else None

    def credentials(self, spec: ModelSpec) -> tuple[str, SecretStr]:
        """Return the name and the key an engine knows the model and us by."""
        server = self.registry.server_of(spec) if self.registry else spec
        engine = server.engine
        if not isinstance(engine, ExternalEngine):
            return server.id, NO_KEY
        key = read_secret(engine.api_key_env) if engine.api_key_env else None
        return engine.model or server.id, SecretStr(key) if key else NO_KEY


def open_short_connections(settings: Settings) -> Connections:
    """Return the connections that streams and answers of chat models take."""
    return Connections(
        settings.engine_connections, connect_within=settings.engine_connect, silence=settings.engine_silence
    )


def open_connections(settings: Settings) -> httpx2.AsyncBaseTransport:
    """Return the connections to the engines.

    They are dropped after 2 s without use: engines close them after 5 s, and a request that meets the closing fails.
    """
    limits = httpx2.Limits(
        max_connections=settings.engine_connections,
        max_keepalive_connections=settings.engine_connections,
        keepalive_expiry=2.0,
    )
    return DeferredTransport(lambda: httpx2.AsyncHTTPTransport(limits=limits))


def engine_timeout(settings: Settings) -> httpx2.Timeout:
    """Return the time-outs of an engine request: they bound silence, not length."""
    return httpx2.Timeout(settings.engine_silence, connect=settings.engine_connect)


def build_chain(spec: ModelSpec, access: EngineAccess, *, kind: type[ChatVLLM] = ChatVLLM) -> Chain:
    """Return the chain of one entry.

    Args:
        spec: The entry.
        access: Of its engine.
        kind: What stands for the chat model.

    Raises:
        ChainError: It cannot be built.
    """
    if spec.chain is None:
        raise ChainError(f"'{spec.id}' names no chain.")
    build = _find_builder(spec.id, spec.chain.package)
    asked = inspect.signature(build).parameters
    try:
        more = {name: offer(spec) for name, offer in access.offers.items() if name in asked}
        model = _build_model(spec, access, kind)
        chain = build(model, system_prompt=spec.chain.system_prompt, variables=spec.chain.variables, **more)
    except ValueError as error:  # a variable of the prompt without a value, a default beyond its limit
        raise ChainError(f"The chain of '{spec.id}' cannot be built: {error}") from error
    return _remember(chain, spec, spec.chain, access) if access.memory and spec.chain.memory.enabled else chain


def _remember(chain: Chain, spec: ModelSpec, ref: ChainRef, access: EngineAccess) -> Chain:
    """Return the chain with a memory, where it is one over messages."""
    if access.memory is None:
        return chain
    habits = Habits(
        spec.id,
        summarises=ref.memory.when_full == "summarise",
        ttl=(ref.memory.ttl_seconds or access.memory.ttl) or None,
        max_tokens=spec.sampling.max_tokens,
    )
    llm = build_chat_model(spec, access)
    counter = Counter(llm.model, limit=spec.limits.max_model_len)
    return remembering(chain, llm, turns=access.memory.turns, counter=counter, habits=habits)


def _build_model(spec: ModelSpec, access: EngineAccess, kind: type[ChatVLLM]) -> Any:
    """Return what a package's ``build_chain`` is given, by the entry's task."""
    match spec.task:
        case "image-generation":
            return build_image_model(spec, access)
        case _:
            return build_conversation_model(spec, access, kind=kind)


def build_conversation_model(spec: ModelSpec, access: EngineAccess, *, kind: type[ChatVLLM] = ChatVLLM) -> Chain:
    """Return the chat model of one entry; one that sees is behind the check of images."""
    build = build_vision_model if spec.task == "vision-chat" else build_chat_model
    return build(spec, access, kind=kind)


def build_chat_model(spec: ModelSpec, access: EngineAccess, *, kind: type[ChatVLLM] = ChatVLLM) -> ConfigurableChat:
    """Return the chat model of one entry, with its sampling defaults, which a request's config may change."""
    client = access.client(spec.id)
    defaults: dict[str, Any] = spec.sampling.model_dump(exclude_none=True)
    name, key = access.credentials(spec)
    template = spec.chain.chat_template if spec.chain else None
    if template is not None and kind is ChatVLLM:
        kind, defaults = CompletionChat, {**defaults, "chat_template": template}
    llm = kind(
        model=name,
        base_url=BASE_URL,
        api_key=key,
        http_async_client=client,
        engine=access.engine(spec.id) if kind is not CompletionChat else None,
        timeout=access.timeout,
        max_retries=0,
        **defaults,
    )
    reasons = "reasoning" in spec.metadata.capabilities
    return configurable(llm, offers=("response_format", "thinking") if reasons else ("response_format",))


def build_vision_model(spec: ModelSpec, access: EngineAccess, *, kind: type[ChatVLLM] = ChatVLLM) -> Chain:
    """Return the chat model of one entry behind the check of images: whichever way one came, it is checked."""

    async def check(prompt: PromptValue) -> list[BaseMessage]:
        return await access.images.check_images(prompt.to_messages(), spec.limits)

    return RunnableLambda(check) | build_chat_model(spec, access, kind=kind)


def build_image_model(spec: ModelSpec, access: EngineAccess) -> "ImageModel":
    """Return the image model of one entry, with its drawing defaults and limits; what it draws is kept."""
    from image_generation import Drawing, ImageModel  # noqa: PLC0415 -- with Pillow, for models that draw alone

    name, key = access.credentials(spec)
    return ImageModel(
        model=name,
        base_url=BASE_URL,
        api_key=key,
        drawing=Drawing.model_validate(spec.drawing.model_dump()),
        limits=image_limits(spec, access),
        keep=access.keep,
        timeout=access.timeout,
        http_async_client=access.client(spec.id),
    )


def image_limits(spec: ModelSpec, access: EngineAccess) -> "ImageLimits":
    """Return what one request may ask an image model for."""
    from image_generation import ImageLimits  # noqa: PLC0415 -- see above

    return ImageLimits(
        pictures=spec.limits.max_images or access.limits.pictures,
        pixels=spec.limits.max_pixels or access.limits.picture_pixels,
        steps=access.limits.picture_steps,
    )


def _find_builder(model: str, package: str) -> Callable[..., Chain]:
    try:
        module = importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise ChainError(f"'{model}' names the package '{package}': {error}. Is it installed?") from error
    builder = getattr(module, "build_chain", None)
    if not callable(builder):
        raise ChainError(f"The package '{package}' of '{model}' has no build_chain(llm, ...).")
    return cast("Callable[..., Chain]", builder)
