"""A process that is killed while it ingests: the store answers, and the next process goes on where it was."""

import signal
import subprocess  # noqa: TID251 - a test kills it from outside
import sys
from pathlib import Path

from langchain_core.embeddings import DeterministicFakeEmbedding
from rag_chat import File, HybridRetriever, Ingest, Limits, PassageStore, Where

from tests.surroundings import environment

SCRIPT = """
import asyncio, sys
from langchain_core.embeddings import DeterministicFakeEmbedding
from rag_chat import File, Ingest, Limits, PassageStore, Where

async def main():
    ingest = Ingest(PassageStore(Where(sys.argv[1])), DeterministicFakeEmbedding(size=16), "fake", Limits())
    async for now in ingest("docs", File("long.md", sys.stdin.buffer.read())):
        print(now.phase, now.done, flush=True)

asyncio.run(main())
"""
TEXT = "".join(f"## Section {number}\nThis is about widget{number}.\n" for number in range(2000)).encode()


async def test_a_killed_ingest_leaves_a_store_that_answers_and_goes_on(tmp_path: Path) -> None:
    """SIGKILL in the middle: what was written is found and is not embedded again."""
    store = tmp_path / "store"
    command = [sys.executable, "-c", SCRIPT, str(store)]
    with subprocess.Popen(  # noqa: ASYNC220 - nothing else waits here
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment()
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(TEXT)
        child.stdin.close()
        for line in child.stdout:
            if line.split()[-1] == b"320":
                child.send_signal(signal.SIGKILL)
                break
        assert child.wait(timeout=30) == -signal.SIGKILL
    passages, embeddings = PassageStore(Where(str(store))), DeterministicFakeEmbedding(size=16)
    try:
        assert await passages.records("docs") == []
        retriever = HybridRetriever(store=passages, embeddings=embeddings, collection="docs", passages=1, by="words")
        (found,) = await retriever.ainvoke("widget100")
        assert found.page_content == "This is about widget100."
        ingest = Ingest(passages, embeddings, "fake", Limits())
        told = [now async for now in ingest("docs", File("long.md", TEXT))]
        assert told[-1].total == 2000
        assert told[-1].new <= 2000 - 320
        assert [record.source for record in await passages.records("docs")] == ["long.md"]
    finally:
        await passages.aclose()
