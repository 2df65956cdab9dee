"""One product for the whole session, shared by every test that needs a real engine."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest

from tests.product import READY_WITHIN, engine_url, read_metrics, started
from tests.surroundings import ARTIFACTS, missing, running_product


class Served(Protocol):
    """What a test may ask of the shared product."""

    @property
    def url(self) -> str:
        """Of the app, without a trailing slash."""
        ...

    @property
    def grpc(self) -> str:
        """Where the app serves gRPC: host and port."""
        ...

    @property
    def engine_url(self) -> str:
        """Of the model's vLLM server, without /v1."""
        ...

    def engine_url_of(self, model: str) -> str:
        """Of another model's server, without /v1."""
        ...

    def metrics(self) -> dict[str, float]:
        """The engine's metrics by name."""
        ...


@dataclass(frozen=True)
class Running:
    """A product that somebody else started and will stop."""

    url: str
    run_dir: Path
    grpc_address: str | None = None

    @property
    def grpc(self) -> str:
        """Where its app serves gRPC: host and port."""
        return self.grpc_address or missing("gRPC of the running product (LANGSERVE_VLLM_TEST_GRPC)")

    @property
    def engine_url(self) -> str:
        """Of the first model's server, without /v1."""
        return engine_url(self.run_dir)

    def engine_url_of(self, model: str) -> str:
        """Of that model's server, without /v1."""
        return engine_url(self.run_dir, model)

    def metrics(self) -> dict[str, float]:
        """The engine's metrics by name."""
        return read_metrics(self.engine_url)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the test that happens to start the product the time a start takes."""
    for item in items:
        if "product" in getattr(item, "fixturenames", ()) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(READY_WITHIN + 120))


@pytest.fixture(scope="session")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The real product, ready: launcher, app, a server of each kind. Its output is kept in artifacts/product.log."""
    if running := running_product():
        yield Running(*running)
        return
    with started(tmp_path_factory.mktemp("run"), ARTIFACTS / "product.log") as own:
        own.wait_ready()
        yield own


@pytest.fixture(scope="session")
def vllm_base_url(product: Served) -> str:
    """The OpenAI-compatible base URL of the model's vLLM server."""
    return f"{product.engine_url}/v1"
