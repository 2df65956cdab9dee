"""The short way to the ready server of a model: as ``EndpointTransport``, over connections of our own."""

import contextlib
from collections.abc import Callable, Mapping

from app.engines.connection import Answer, Connections
from app.engines.endpoint import gone, reach
from app.engines.table import Endpoint, ServerTable

BESIDE = frozenset({"/tokenize", "/detokenize"})
"""vLLM's own paths, which stand beside ``/v1``; they compute nothing."""


class Engine:
    """Sends the requests of one model to whatever server is ready for it; ``chat_vllm.model.Engine``.

    Args:
        model: The model's id.
        table: Knows the ready server.
        connections: Shared by all models; closed by whoever made them.
        wait: Seconds to wait for the next server where one was on its way out.
    """

    def __init__(self, model: str, table: ServerTable, connections: Connections, *, wait: float = 300.0) -> None:
        self._model = model
        self._table = table
        self._connections = connections
        self._wait = wait

    def __repr__(self) -> str:
        return f"<Engine {self._model} → {self._table.endpoint(self._model)}>"

    async def post(
        self, path: str, body: bytes, headers: Mapping[str, str], *, seen: Callable[[Answer], None] | None = None
    ) -> Answer:
        """Send a JSON body to ``path`` below ``/v1``, or in ``BESIDE``; an error before the answer is a ServiceError.

        ``seen`` gets every answer before anything of it has come: another one where a server was on its way out.
        """

        async def send(endpoint: Endpoint) -> Answer:
            return await self._send(endpoint, path, body, headers, seen)

        return await reach(self._model, self._table, send, wait=self._wait)

    async def _send(
        self,
        endpoint: Endpoint,
        path: str,
        body: bytes,
        headers: Mapping[str, str],
        seen: Callable[[Answer], None] | None,
    ) -> Answer:
        """Send it to this server, and end the answer with the server, as the table tells it."""
        if endpoint.ended:
            raise gone()
        url = f"{endpoint.url.rstrip('/')}{'' if path in BESIDE else '/v1'}{path}"

        def watched(answer: Answer) -> contextlib.AbstractContextManager[None]:
            if seen is not None:
                seen(answer)
            return endpoint.on_end(lambda: answer.fail(gone()))

        return await self._connections.post(url, body, headers, watched=watched)
