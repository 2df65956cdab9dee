"""The routes of documents: ``/documents/…``.

Ingesting answers with 202 and the documents' jobs; to who accepts ``text/event-stream``, with their progress as
events. A document is shown to people as a page, in which citations open at their passage, and to programs as JSON.
"""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import orjson
from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from app.documents.access import Access
from app.documents.library import Library
from app.documents.page import show_document
from app.documents.queue import IngestQueue, Job
from app.documents.uploads import Search, files_of, parsed
from app.errors import ShuttingDown, UnknownDocument
from app.guard.bodies import while_wanted
from app.protocols.langserve.events import render_error
from app.responses import named_errors
from app.settings import Settings
from app.shutdown import Shutdown
from app.streams.sse import Event, EventStream, Pump

EVENTS = "text/event-stream"
DOCUMENT_LIMIT = 64
"""Characters of a document's id; it has 36."""


@dataclass(frozen=True)
class DocumentRoutes:
    """What the routes share."""

    library: Library
    queue: IngestQueue
    settings: Settings
    shutdown: Shutdown

    @property
    def access(self) -> Access:
        """What keys may do."""
        return Access(self.library)

    # --- reading ---------------------------------------------------------------------------

    async def collections(self, request: Request) -> Response:
        """Name every collection."""
        with named_errors():
            async with while_wanted(request.scope, request.receive, self.shutdown):
                named = await self.library.store.collections()
        return JSONResponse({"collections": self.access.only_readable(request, named)})

    async def documents(self, request: Request) -> Response:
        """List the documents of a collection, and what is on its way into it."""
        collection = self.access.readable(request)
        with named_errors():
            async with while_wanted(request.scope, request.receive, self.shutdown):
                jobs = [job.describe() for job in self.queue.jobs(collection)]
                try:
                    records = await self.library.store.records(collection)
                except Exception:
                    if not jobs:
                        raise
                    records = []
                listed = [{"id": record.id, **asdict(record)} for record in records]
                return JSONResponse({"collection": collection, "documents": listed, "jobs": jobs})

    async def document(self, request: Request) -> Response:
        """Show a document: as a page to browsers, else as JSON."""
        collection, id_ = self.access.readable(request), _document_of(request)
        with named_errors():
            async with while_wanted(request.scope, request.receive, self.shutdown):
                record = await self.library.store.record(collection, id_)
                passages = await self.library.store.passages(collection, id_)
        if not passages:
            raise UnknownDocument("There is no such document.", hint=f"GET /documents/{collection} lists them.")
        if "text/html" in request.headers.get("accept", ""):
            return show_document(collection, passages)
        described = [{"title": found.passage.title, **_passage(found.passage)} for found in passages]
        whole = {"id": id_, **asdict(record)} if record else None
        return JSONResponse({"document": whole, "passages": described})

    async def search(self, request: Request) -> Response:
        """Find the passages that answer a question."""
        collection = self.access.readable(request)
        asked = await parsed(request, Search, self.settings.limits)
        with named_errors():
            async with while_wanted(request.scope, request.receive, self.shutdown):
                found = await self.library.searching(collection, asked.limit, asked.by).ainvoke(asked.query)
        return JSONResponse({"passages": [{**each.metadata, "text": each.page_content} for each in found]})

    async def jobs(self, request: Request) -> Response:
        """Follow what is on its way into a collection, as server-sent events."""
        collection = self.access.readable(request)
        await self.queue.opened.wait()
        ids = [job.id for job in self.queue.jobs(collection) if not job.ended]
        return self._events(ids)

    # --- writing ---------------------------------------------------------------------------

    async def ingest(self, request: Request) -> Response:
        """Take documents, and ingest them one after the other."""
        if self.shutdown.begun:
            raise ShuttingDown
        collection = self.access.changeable(request)
        files = await files_of(request, self.settings.documents, self.settings.limits)
        with named_errors():
            self.library.ingest()  # refuses where there is no embedding model
            jobs = [await self.queue.add(collection, file) for file in files]
        if EVENTS in request.headers.get("accept", ""):
            return self._events([job.id for job in jobs])
        return JSONResponse({"collection": collection, "jobs": _described(jobs)}, 202)

    async def delete_document(self, request: Request) -> Response:
        """Remove a document with its passages."""
        collection, id_ = self.access.changeable(request), _document_of(request)
        with named_errors():
            async with self.queue.writing:
                await self.library.store.delete(collection, id_)
        return Response(status_code=204)

    async def delete_collection(self, request: Request) -> Response:
        """Remove a collection with everything in it."""
        collection = self.access.changeable(request)
        with named_errors():
            async with self.queue.writing:
                await self.library.store.drop(collection)
        return Response(status_code=204)

    def _events(self, ids: Sequence[str]) -> EventStream:
        return EventStream(
            Pump(_told(self.queue, ids)),
            render_error=render_error,
            shutdown=self.shutdown,
            ping=self.settings.ping,
            endless=True,
        )


async def _told(queue: IngestQueue, ids: Sequence[str]) -> AsyncGenerator[Event, None]:
    async for job in queue.follow(ids):
        yield Event("job", orjson.dumps(job.describe()).decode())
    yield Event("end")


def _described(jobs: Sequence[Job]) -> list[dict[str, Any]]:
    return [job.describe() for job in jobs]


def _passage(passage: Any) -> dict[str, Any]:
    return {"text": passage.text, "place": str(passage.place), **asdict(passage.place)}


def _document_of(request: Request) -> str:
    id_: str = request.path_params["document"]
    if len(id_) > DOCUMENT_LIMIT or not id_.replace("-", "").isalnum():
        raise UnknownDocument("There is no such document.")
    return id_


def create_router(library: Library, queue: IngestQueue, settings: Settings, shutdown: Shutdown) -> APIRouter:
    """Return the routes."""
    routes = DocumentRoutes(library, queue, settings, shutdown)
    router = APIRouter(prefix="/documents", tags=["documents"])
    one = "/{collection}/{document}"
    listed: tuple[tuple[str, str, Any, str, int], ...] = (
        ("GET", "", routes.collections, "List the collections", 200),
        ("GET", "/{collection}", routes.documents, "List a collection's documents", 200),
        ("GET", "/{collection}/jobs", routes.jobs, "Follow what is being ingested", 200),
        ("GET", one, routes.document, "Read a document", 200),
        ("POST", "/{collection}", routes.ingest, "Ingest documents", 202),
        ("POST", "/{collection}/search", routes.search, "Find passages", 200),
        ("DELETE", one, routes.delete_document, "Delete a document", 204),
        ("DELETE", "/{collection}", routes.delete_collection, "Delete a collection", 204),
    )
    for method, path, route, summary, status in listed:
        router.add_api_route(
            path, route, methods=[method], summary=summary, status_code=status, response_class=Response
        )
    return router
