"""The routes of documents, with a real store in a folder and an engine that embeds what it is sent."""

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest
from rag_chat import File

from app.documents.queue import IngestQueue
from app.documents.spool import Spool, Waiting
from app.errors import StoreUnavailable
from app.server import create_app
from app.settings import Documents, Settings
from tests.unit.scripted import MODEL, REGISTRY, SOON, ScriptedEngine, ScriptedLauncher, caller, running, says, server
from tests.unit.scripted import settings as usual
from vllm_launcher.keys import KeyStore

pytestmark = pytest.mark.filterwarnings("ignore:Accessing the 'model_fields' attribute")  # langserve's own
EMBEDDER = "embedder"
ENTRIES: list[dict[str, Any]] = [
    {"id": EMBEDDER, "task": "embedding", "source": {"type": "path", "path": "checkpoint"}},
    {
        "id": "rag",
        "engine": {"type": "shared", "model": MODEL},
        "chain": {"package": "rag_chat", "retrieval": {"collection": "docs", "passages": 2}},
    },
    {
        "id": "agent",
        "engine": {"type": "shared", "model": MODEL},
        "chain": {"package": "tools_agent", "tools": ["calculator", "fetch"]},
    },
]
RIVERS = "# Rivers\n\n## Elbe\nThe Elbe flows through Dresden.\n\n## Rhine\nThe Rhine flows through Cologne.\n"


def embed(body: Mapping[str, Any]) -> tuple[int, Any]:
    """An answer of the pooling server: texts that share letters are near."""
    given: Any = body["input"]
    texts: list[str] = [given] if isinstance(given, str) else given
    vectors = [[1.0 + text.lower().count(letter) for letter in "abcdefghijklmnop"] for text in texts]
    data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(vectors)]
    return 200, {"object": "list", "model": EMBEDDER, "data": data, "usage": {"prompt_tokens": 1, "total_tokens": 1}}


def reply(body: Mapping[str, Any]) -> Any:
    """What both engines answer."""
    return embed(body) if "input" in body else says("It flows there [1].")(body)


def told(folder: Path, *, keys: bool = False, **documents: Any) -> Settings:
    """Settings with our entries beside the usual one."""
    registry = {"models": [*REGISTRY["models"], *ENTRIES]}
    return usual(folder, registry, documents=Documents(**documents), keys=folder / "keys.sqlite", require_keys=keys)


@asynccontextmanager
async def serving(
    folder: Path, engine: httpx2.AsyncBaseTransport | None = None, *, up: bool = True, **told_: Any
) -> AsyncGenerator[httpx.AsyncClient]:
    """A client of an app with the settings of ``told``; the embedding model is ready unless it is said not to be."""
    launcher = ScriptedLauncher(server(), server("ready" if up else "failed", model=EMBEDDER, served_name=EMBEDDER))
    app = create_app(told(folder, **told_), launcher=launcher, connections=engine or ScriptedEngine(reply))
    async with running(app), caller(app) as client, asyncio.timeout(60):
        yield client


async def ingest(client: httpx.AsyncClient, source: str, content: str | bytes, collection: str = "docs") -> Any:
    """Send one file; the last that was told of it."""
    response = await client.post(
        f"/documents/{collection}", files={"files": (source, content)}, headers={"Accept": "text/event-stream"}
    )
    assert response.status_code == 200, response.text
    lines = [line for line in response.text.splitlines() if line]
    assert lines[-1] == "event: end"
    return json.loads(lines[-2].removeprefix("data: "))


async def test_a_document_is_ingested_found_shown_and_deleted(tmp_path: Path) -> None:
    """Its whole life, over REST."""
    async with serving(tmp_path) as client:
        done = await ingest(client, "guide/rivers.md", RIVERS)
        assert (done["state"], done["total"], done["source"]) == ("done", 2, "guide/rivers.md")
        assert (await client.get("/documents")).json() == {"collections": ["docs"]}
        (listed,) = (await client.get("/documents/docs")).json()["documents"]
        assert (listed["source"], listed["passages"], listed["embedding"]) == ("guide/rivers.md", 2, EMBEDDER)
        found = (await client.post("/documents/docs/search", json={"query": "Cologne", "limit": 1})).json()["passages"]
        assert (found[0]["text"], found[0]["line"]) == ("The Rhine flows through Cologne.", 7)
        page = await client.get(found[0]["url"], headers={"Accept": "text/html"})
        assert '<section id="p1">' in page.text
        assert "The Rhine flows through Cologne." in page.text
        assert "default-src 'none'" in page.headers["content-security-policy"]
        whole = (await client.get(f"/documents/docs/{listed['id']}")).json()
        assert [each["line"] for each in whole["passages"]] == [4, 7]
        assert (await client.delete(f"/documents/docs/{listed['id']}")).status_code == 204
        assert (await client.get(f"/documents/docs/{listed['id']}")).status_code == 404
        assert (await client.delete("/documents/docs")).status_code == 204
        assert (await client.get("/documents/docs/x")).json()["error"]["type"] == "unknown_document"


async def test_texts_are_ingested_as_json(tmp_path: Path) -> None:
    """For programs without files: 202, and jobs that can be followed."""
    async with serving(tmp_path) as client:
        body = {"documents": [{"source": "a.md", "text": "# A\nOne."}, {"source": "b.txt", "text": "Two."}]}
        response = await client.post("/documents/docs", json=body)
        assert response.status_code == 202
        assert [job["source"] for job in response.json()["jobs"]] == ["a.md", "b.txt"]
        followed = await client.get("/documents/docs/jobs")
        assert followed.text.endswith("event: end\r\n\r\n")
        listed = (await client.get("/documents/docs")).json()
        assert [each["source"] for each in listed["documents"]] == ["a.md", "b.txt"]


async def test_a_chain_answers_from_what_was_ingested(tmp_path: Path) -> None:
    """Over LangServe, with citations; before anything was ingested it says what to do."""
    engine = ScriptedEngine(reply)
    async with serving(tmp_path, engine) as client:
        nothing = await client.post("/rag/invoke", json={"input": "Cologne?"})
        assert nothing.status_code == 404
        assert "ingest" in nothing.json()["error"]["hint"]
        await ingest(client, "rivers.md", RIVERS)
        output = (await client.post("/rag/invoke", json={"input": "Which river flows through Cologne?"})).json()[
            "output"
        ]
        assert output["content"].startswith("It flows there [1].\n\nSources:\n[1] rivers.md, “Rivers > ")
        assert "truncate_prompt_tokens" in next(body for body in engine.requests if "input" in body)


UNREADABLE = [
    ("a.zip", b"PK\x03\x04", "archive"),
    ("empty.txt", b"", "empty"),
    ("latin.txt", "Grüße".encode("latin-1"), "no UTF-8"),
    ("a.mp4", b"\0", "not read"),
]


async def test_a_document_that_cannot_be_read_fails_with_its_reason(tmp_path: Path) -> None:
    """The next one is ingested all the same."""
    async with serving(tmp_path) as client:
        for name, content, reason in UNREADABLE:
            failed = await ingest(client, name, content)
            assert (failed["state"], reason in failed["reason"]) == ("failed", True)
        assert (await ingest(client, "rivers.md", RIVERS))["state"] == "done"


REFUSED: list[tuple[dict[str, Any], int, str]] = [
    ({"files": {"files": ("a.md", b"x" * 200)}}, 413, "too_large"),
    ({"files": {"files": ("a.md", b"x" * 20_000)}}, 413, "too_large"),
    ({"files": [("files", (f"{n}.md", b"x")) for n in range(4)]}, 413, "too_large"),
    ({"files": {"files": ("../../etc/passwd", b"x")}}, 422, "invalid_input"),
    ({"files": {"files": ("\u202egnp.md", b"x")}}, 422, "invalid_input"),
    ({"files": {"other": (None, "no file")}}, 422, "invalid_input"),
    ({"json": {"documents": []}}, 422, "invalid_input"),
    ({"json": {"documents": [{"source": "a.md"}]}}, 422, "invalid_input"),
    ({"json": {"documents": [{"source": "a.md", "text": "x"}] * 4}}, 413, "too_large"),
    ({"content": b"x", "headers": {"content-type": "text/plain"}}, 422, "invalid_input"),
    ({"content": b"x", "headers": {"content-type": "multipart/form-data; boundary=y"}}, 422, "invalid_input"),
]


async def test_a_bad_upload_is_refused(tmp_path: Path) -> None:
    """By size, number, name and form, before anything is kept."""
    async with serving(tmp_path, file_bytes=100, upload_bytes=10_000, files=3) as client:
        for request, status_code, kind in REFUSED:
            response = await client.post("/documents/docs", **request)
            assert (response.status_code, response.json()["error"]["type"]) == (status_code, kind), request
        for name in ("UPPER", "a b", "-x", "x" * 65, "a%00b"):
            response = await client.post(f"/documents/{name}", json={"documents": [{"source": "a.md", "text": "x"}]})
            assert (response.status_code, response.json()["error"]["param"]) == (422, "collection"), name
        assert (await client.get("/documents")).json() == {"collections": []}


async def test_only_a_key_made_for_it_changes_documents(tmp_path: Path) -> None:
    """A key that may use a chain reads what it answers from; one for other models sees nothing of it."""
    with KeyStore.opened(tmp_path / "keys.sqlite") as keys:

        def key(**may: Any) -> dict[str, str]:
            return {"authorization": f"Bearer {keys.create('alice', **may)[1]}"}

        writes, any_, of_rag, of_others = key(documents=True), key(), key(models=("rag",)), key(models=(MODEL,))
        async with serving(tmp_path, keys=True) as client:
            body = {"documents": [{"source": "rivers.md", "text": RIVERS}]}
            for refused in (any_, of_rag, of_others):
                response = await client.post("/documents/docs", json=body, headers=refused)
                assert (response.status_code, response.json()["error"]["type"]) == (403, "not_allowed")
                assert (await client.delete("/documents/docs", headers=refused)).status_code == 403
            assert (await client.post("/documents/docs", json=body)).status_code == 401
            assert (await client.post("/documents/docs", json=body, headers=writes)).status_code == 202
            assert "event: end" in (await client.get("/documents/docs/jobs", headers=of_rag)).text
            asked = {"query": "Cologne", "limit": 1}
            for reads in (writes, any_, of_rag):
                found = await client.post("/documents/docs/search", json=asked, headers=reads)
                page = await client.get(found.json()["passages"][0]["url"], headers=reads)
                assert page.status_code == 200
                assert (await client.get("/documents", headers=reads)).json() == {"collections": ["docs"]}
            assert (await client.get("/documents", headers=of_others)).json() == {"collections": []}
            for path in ("/documents/docs", f"/documents/docs/{page.json()['document']['id']}", "/documents/docs/jobs"):
                assert (await client.get(path, headers=of_others)).status_code == 403
            assert (await client.post("/documents/docs/search", json=asked, headers=of_others)).status_code == 403
            answer = await client.post("/rag/invoke", json={"input": "Which river?"}, headers=of_rag)
            assert answer.status_code == 200
            assert (await client.delete("/documents/docs", headers=writes)).status_code == 204


async def test_a_search_by_one_half_alone(tmp_path: Path) -> None:
    """For who wants to know why a passage is found: by meaning, or by words."""
    async with serving(tmp_path) as client:
        await ingest(client, "rivers.md", RIVERS)

        async def texts(**asked: Any) -> list[str]:
            found = await client.post("/documents/docs/search", json=asked)
            assert found.status_code == 200, found.text
            return [each["text"] for each in found.json()["passages"]]

        assert await texts(query="Cologne", by="words") == ["The Rhine flows through Cologne."]
        assert len(await texts(query="Cologne", by="meaning")) == 2
        assert await texts(query="???", by="words") == []
        refused = await client.post("/documents/docs/search", json={"query": "x", "by": "smell"})
        assert (refused.status_code, refused.json()["error"]["type"]) == (422, "invalid_input")


async def test_more_than_may_wait_is_refused(tmp_path: Path) -> None:
    """With 429 and when to try again; what waits is kept."""
    release = asyncio.Event()

    async def wait(body: Mapping[str, Any]) -> Any:
        await release.wait()
        return reply(body)

    async with serving(tmp_path, ScriptedEngine(wait), waiting=2) as client:
        for name in ("a.md", "b.md"):
            sent = await client.post("/documents/docs", json={"documents": [{"source": name, "text": "Text."}]})
            assert sent.status_code == 202
        refused = await client.post("/documents/docs", json={"documents": [{"source": "c.md", "text": "Text."}]})
        assert (refused.status_code, refused.json()["error"]["type"]) == (429, "documents_waiting")
        assert refused.headers["retry-after"]
        release.set()
        assert (await client.get("/documents/docs/jobs")).text.endswith("event: end\r\n\r\n")


async def test_what_waits_is_ingested_by_the_next_process(tmp_path: Path) -> None:
    """It was taken, so it is not lost; what was in already answers all the while."""
    async with serving(tmp_path) as client:
        await ingest(client, "rivers.md", RIVERS)
    async with serving(tmp_path, up=False) as client:  # the embedding model is not there
        sent = await client.post("/documents/docs", json={"documents": [{"source": "late.md", "text": "It is late."}]})
        assert sent.status_code == 202
        listed = (await client.get("/documents/docs")).json()
        assert [each["source"] for each in listed["documents"]] == ["rivers.md"]
    async with serving(tmp_path) as client:
        await client.get("/documents/docs/jobs")  # ends when nothing waits any more
        listed = (await client.get("/documents/docs")).json()
        assert [each["source"] for each in listed["documents"]] == ["late.md", "rivers.md"]


async def test_a_store_that_is_open_elsewhere_is_named(tmp_path: Path) -> None:
    """By chains as by routes: 503, and nothing of its path."""
    async with serving(tmp_path) as first, serving(tmp_path) as second:
        await ingest(first, "rivers.md", RIVERS)
        for response in (
            await second.get("/documents/docs"),
            await second.post("/rag/invoke", json={"input": "Cologne?"}),
        ):
            assert (response.status_code, response.json()["error"]["type"]) == (503, "store_unavailable")
            assert str(tmp_path) not in response.text


async def test_another_list_of_models_changes_what_documents_are_embedded_with(tmp_path: Path) -> None:
    """Also for chains that stay as they are; a list that cannot be served changes nothing."""
    engine, made = ScriptedEngine(reply), told(tmp_path)
    launcher = ScriptedLauncher(server(), *(server(model=each, served_name=each) for each in (EMBEDDER, "other")))
    app = create_app(made, launcher=launcher, connections=engine)
    usual_, rag, agent = REGISTRY["models"][0], *ENTRIES[1:]

    def asked() -> str:
        return [body["model"] for body in engine.requests if "input" in body][-1]

    async def read(*entries: Any) -> None:
        usual(tmp_path, {"models": entries})
        await app.state.table.on_generation()

    async with running(app), caller(app) as client, asyncio.timeout(SOON):
        await ingest(client, "rivers.md", RIVERS)
        broken = {**usual_, "id": "broken", "chain": {"package": "json"}}
        await read(usual_, {**ENTRIES[0], "id": "other"}, rag, agent, broken)
        assert (await client.post("/documents/docs/search", json={"query": "Elbe"})).status_code == 200
        assert asked() == EMBEDDER
        await read(usual_, {**ENTRIES[0], "id": "other"}, rag, agent)
        await client.post("/rag/invoke", json={"input": "Elbe?"})
        assert asked() == "other"
        await read(usual_)
        assert (await client.post("/documents/docs/search", json={"query": "Elbe"})).status_code == 400


def test_a_spool_gives_each_process_its_own_place(tmp_path: Path) -> None:
    """And what a process that has ended left goes to the next one."""
    first, second = Spool(tmp_path), Spool(tmp_path)
    assert first.open() == second.open() == []
    waiting = Waiting("1", "docs", "a.md", None, 1)
    first.save(waiting, b"x")
    first.close()
    third = Spool(tmp_path)
    assert third.open() == [waiting]
    assert third.content("1") == b"x"
    third.remove("1")
    third.close()
    second.close()


async def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    """When something is sent, not before."""
    (tmp_path / "file").write_text("")
    queue = IngestQueue(Spool(tmp_path / "file" / "spool"), lambda: pytest.fail("never"), Documents())
    task = asyncio.create_task(queue.run())
    try:
        async with asyncio.timeout(SOON):
            with pytest.raises(StoreUnavailable, match="cannot be written"):
                await queue.add("docs", File("a.md", b"x"))
    finally:
        task.cancel()
        await asyncio.wait([task])
