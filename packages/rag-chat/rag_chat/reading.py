"""Reading a document in a process of its own: it ends at its limits of time and memory, whatever the file is.

A file of some kilobytes can unpack to gigabytes or keep a parser busy for hours. Neither harms the caller: the child's
address space and processor time are limited by the kernel (setrlimit(2)), its whole time by the caller, and it ends
with its parent (prctl(2)).
"""

import asyncio
import contextlib
import ctypes
import json
import logging
import os
import resource
import signal
import sys
from dataclasses import asdict
from typing import Any, cast

from rag_chat import errors
from rag_chat.errors import RetrievalError, UnreadableDocument
from rag_chat.parsing import Limits, kind_of, parse
from rag_chat.passages import Block, Parsed

PR_SET_PDEATHSIG = 1
ENDED_BY_LIMIT = (-signal.SIGXCPU, -signal.SIGKILL)


async def read(name: str, content: bytes, *, media_type: str | None = None, limits: Limits | None = None) -> Parsed:
    """Return a document's text, read in a child process unless it is plain.

    Raises:
        UnreadableDocument: It has no text that can be had, within its time and memory.
        DocumentTooLarge: It has more than ``limits`` allow.
    """
    limits = limits or Limits()
    kind = kind_of(name, content, media_type)
    if kind in ("text", "markdown"):
        return await asyncio.to_thread(parse, name, content, kind, limits)
    told = json.dumps({"name": name, "kind": kind, "limits": asdict(limits)}).encode() + b"\n"
    code, output = await _run(told + content, limits.seconds)
    if code != 0 or not output:
        raise _ended(code)
    return _result(json.loads(output))


def _ended(code: int) -> UnreadableDocument:
    if code in ENDED_BY_LIMIT:
        return UnreadableDocument("The document takes too long to read.", "Split it, or save it anew.")
    return UnreadableDocument("The document cannot be read within the memory that one may take.", "Split it.")


def _result(told: dict[str, object]) -> Parsed:
    match told:
        case {"error": str(kind), "message": str(message), "hint": hint}:
            raise getattr(errors, kind)(message, hint)
        case {"title": str(title), "blocks": blocks}:
            return Parsed(title, tuple(map(_block, cast("list[dict[str, Any]]", blocks))))
        case _:
            raise UnreadableDocument("The document cannot be read.")


def _block(fields: dict[str, Any]) -> Block:
    return Block(fields["text"], tuple(fields["headings"]), fields["line"], fields["page"])


async def _run(message: bytes, seconds: float) -> tuple[int, bytes]:
    """Return the child's exit code and output; it is killed when the time is up, or the caller cancelled."""
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "rag_chat.reading",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(seconds):
            output, _ = await child.communicate(message)
    except TimeoutError:
        return -signal.SIGKILL, b""
    finally:
        if child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            await child.wait()
    return child.returncode or 0, output


def main() -> None:
    """The child: a line of JSON and a file on standard input, JSON on standard output."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))
    logging.disable()
    told = json.loads(sys.stdin.buffer.readline())
    limits = Limits(**told["limits"])
    resource.setrlimit(resource.RLIMIT_AS, (limits.memory, limits.memory))
    seconds = int(limits.seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        parsed = parse(told["name"], sys.stdin.buffer.read(), told["kind"], limits)
        answer = json.dumps(asdict(parsed))
    except RetrievalError as error:
        answer = json.dumps({"error": type(error).__name__, "message": error.message, "hint": error.hint})
    except MemoryError:
        os._exit(1)
    sys.stdout.write(answer)


if __name__ == "__main__":
    main()
