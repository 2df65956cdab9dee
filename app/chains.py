"""The model factory: a registry entry becomes a Runnable.

A package's ``build_chain`` gets a chat model that reaches whatever server is ready, so a chain exists from the first
second, whether its model does or not.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import httpx2
from chat_vllm import ChatVLLM, configurable
from langchain_core.runnables import Runnable
from pydantic import SecretStr

from app.endpoint import BASE_URL, EndpointTransport
from app.settings import Settings, read_secret
from app.table import ServerTable
from vllm_launcher.registry import ExternalEngine, ModelSpec, Registry

Chain = Runnable[Any, Any]

NO_KEY = SecretStr("EMPTY")
"""What the openai SDK sends where no key is asked for."""


class ChainError(Exception):
    """A chain cannot be built: its package is missing, or does not build one."""


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
    guard: Callable[[str, httpx2.AsyncBaseTransport], httpx2.AsyncBaseTransport] | None = None
    """Puts the guard's passage before the way to a model's engine (``app/passage.py``)."""
    registry: Registry | None = None
    """Tells whose server an entry uses that has none of its own."""

    def client(self, model: str) -> httpx2.AsyncClient:
        """Return a client whose requests go to the ready server of ``model``."""
        transport: httpx2.AsyncBaseTransport = EndpointTransport(model, self.table, self.connections, wait=self.wait)
        if self.guard is not None:
            transport = self.guard(model, transport)
        return httpx2.AsyncClient(transport=transport, timeout=self.timeout, trust_env=False)

    def credentials(self, spec: ModelSpec) -> tuple[str, SecretStr]:
        """Return the name and the key an engine knows the model and us by."""
        server = self.registry.server_of(spec) if self.registry else spec
        engine = server.engine
        if not isinstance(engine, ExternalEngine):
            return server.id, NO_KEY
        key = read_secret(engine.api_key_env) if engine.api_key_env else None
        return engine.model or server.id, SecretStr(key) if key else NO_KEY


def open_connections(settings: Settings) -> httpx2.AsyncHTTPTransport:
    """Return the connections to the engines.

    They are dropped after 2 s without use: engines close them after 5 s, and a request that meets the closing fails.
    """
    limits = httpx2.Limits(
        max_connections=settings.engine_connections,
        max_keepalive_connections=settings.engine_connections,
        keepalive_expiry=2.0,
    )
    return httpx2.AsyncHTTPTransport(limits=limits)


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
    try:
        return build(
            build_chat_model(spec, access, kind=kind),
            system_prompt=spec.chain.system_prompt,
            variables=spec.chain.variables,
        )
    except ValueError as error:  # a variable of the prompt without a value, for example
        raise ChainError(f"The chain of '{spec.id}' cannot be built: {error}") from error


def build_chat_model(spec: ModelSpec, access: EngineAccess, *, kind: type[ChatVLLM] = ChatVLLM) -> Chain:
    """Return the chat model of one entry, with its sampling defaults, which a request's config may change."""
    client = access.client(spec.id)
    defaults = spec.sampling.model_dump(exclude_none=True)
    name, key = access.credentials(spec)
    llm = kind(
        model=name,
        base_url=BASE_URL,
        api_key=key,
        http_async_client=client,
        timeout=access.timeout,
        max_retries=0,
        **defaults,
    )
    return configurable(llm)


def _find_builder(model: str, package: str) -> Callable[..., Chain]:
    try:
        module = importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise ChainError(f"'{model}' names the package '{package}': {error}. Is it installed?") from error
    builder = getattr(module, "build_chain", None)
    if not callable(builder):
        raise ChainError(f"The package '{package}' of '{model}' has no build_chain(llm, ...).")
    return cast("Callable[..., Chain]", builder)
