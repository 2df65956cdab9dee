"""Sending files to the running app to be ingested, with their progress on the console: ``ingest``.

The app keeps what it has taken: a command that is stopped loses nothing, and files that are known already are not
embedded again.
"""

import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from rich.console import Console
from rich.markup import escape

from vllm_launcher.errors import LauncherError

SUFFIXES = frozenset({".md", ".markdown", ".txt", ".text", ".rst", ".html", ".htm", ".xhtml", ".pdf"})
"""Of the files that are sent out of a folder; a file that is named itself is sent whatever it is called."""
TIMEOUT = aiohttp.ClientTimeout(total=None, connect=10, sock_read=120)
"""The app sends a comment every 15 s while nothing happens."""
LINE_LIMIT = 1 << 20


@dataclass
class Outcome:
    """What became of the files."""

    ingested: int = 0
    unchanged: int = 0
    failed: dict[str, str] = field(default_factory=dict[str, str])
    """Why, by name."""


@dataclass(frozen=True)
class App:
    """Where the app is, and the key it asks for."""

    url: str
    key: str | None = field(default=None, repr=False)

    @property
    def headers(self) -> Mapping[str, str]:
        """Of every request."""
        key = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        return {"Accept": "text/event-stream", **key}


def files_in(paths: Sequence[Path], base: Path) -> list[tuple[str, Path]]:
    """Return the files to send, each with its name: its path from ``base`` where it is below, else from its folder.

    Raises:
        LauncherError: A path does not exist, or there is nothing to send.
    """
    found: dict[str, Path] = {}
    for path in paths:
        if not path.exists():
            raise LauncherError(f"There is no {path}.", "Give files or folders that exist.")
        for file in _below(path) if path.is_dir() else [path]:
            found[_name(file, path, base)] = file
    if not found:
        raise LauncherError(
            "There is no document in there.", f"Of folders, these are sent: {' '.join(sorted(SUFFIXES))}"
        )
    return sorted(found.items())


def _below(folder: Path) -> Iterator[Path]:
    for file in sorted(folder.rglob("*")):
        inside = file.relative_to(folder).parts
        if file.is_file() and file.suffix.lower() in SUFFIXES and not any(part.startswith(".") for part in inside):
            yield file


def _name(file: Path, given: Path, base: Path) -> str:
    absolute = file.resolve()
    if absolute.is_relative_to(base.resolve()):
        return absolute.relative_to(base.resolve()).as_posix()
    return (Path(given.resolve().name) / file.relative_to(given)).as_posix() if given.is_dir() else file.name


async def ingest(app: App, collection: str, files: Sequence[tuple[str, Path]], console: Console) -> Outcome:
    """Send the files one after the other, each when the one before it is through.

    Raises:
        LauncherError: The app is not there, or takes nothing.
    """
    outcome = Outcome()
    async with aiohttp.ClientSession(timeout=TIMEOUT, read_bufsize=LINE_LIMIT) as session:
        with console.status("connecting") as line:
            for number, (name, path) in enumerate(files, start=1):
                async for job in _send(session, app, collection, name, path):
                    told = f" {job['done']}/{job['total']} passages" if job["total"] else ""
                    why = f": {job['reason']}" if job["reason"] else ""
                    line.update(escape(f"{number}/{len(files)} {name}: {job['state']}{told}{why}"))
                    _note(outcome, job, console)
    return outcome


def _note(outcome: Outcome, job: Mapping[str, Any], console: Console) -> None:
    match job["state"]:
        case "done":
            outcome.ingested += 1
            removed = f", {job['removed']} removed" if job["removed"] else ""
            console.print(
                escape(f"{job['source']}: {job['total']} passages, {job['new']} new{removed}"), highlight=False
            )
        case "unchanged":
            outcome.unchanged += 1
        case "failed":
            why = " ".join(filter(None, [job["reason"], job["hint"]]))
            outcome.failed[job["source"]] = why
            console.print(f"[red]{escape(job['source'])}[/]: {escape(why)}", highlight=False)
        case _:
            pass


async def _send(
    session: aiohttp.ClientSession, app: App, collection: str, name: str, path: Path
) -> AsyncIterator[dict[str, Any]]:
    """Send one file; the states it goes through."""
    url = f"{app.url.rstrip('/')}/documents/{collection}"
    try:
        with path.open("rb") as content:
            form = aiohttp.FormData(quote_fields=False)  # else names arrive percent-encoded
            form.add_field("files", content, filename=name)
            async with session.post(url, data=form, headers=app.headers) as response:
                if response.status != 200:  # noqa: PLR2004
                    raise await _refused(response, name)
                async for job in _jobs(response):
                    yield job
    except aiohttp.ClientError as error:
        reason = f"The app at {app.url} does not answer: {error}."
        raise LauncherError(reason, "Is it running? What it has taken is ingested when it is back.") from error
    except TimeoutError as error:
        raise LauncherError(f"The app at {app.url} has sent nothing for too long.") from error
    except OSError as error:
        raise LauncherError(f"{path} cannot be read: {error.strerror or error}.") from error


async def _jobs(response: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
    """The data of a stream's ``job`` events.

    Raises:
        LauncherError: It ended otherwise than with ``end``.
    """
    event = ""
    async for raw in response.content:
        line = raw.decode().rstrip("\r\n")
        if line.startswith("event: "):
            event = line.removeprefix("event: ")
            if event == "end":
                return
        elif line.startswith("data: "):
            told: dict[str, Any] = json.loads(line.removeprefix("data: "))
            if event == "job":
                yield told
            elif event == "error":
                raise LauncherError(str(told.get("message")), told.get("hint"))
    raise LauncherError("The app ended.", "What it has taken is ingested when it is back.")


async def _refused(response: aiohttp.ClientResponse, name: str) -> LauncherError:
    try:
        told: dict[str, Any] = (await response.json())["error"]
    except (aiohttp.ClientError, ValueError, KeyError, TypeError):
        return LauncherError(f"{name} was not taken: the app answered with {response.status}.")
    return LauncherError(f"{name} was not taken: {told.get('message')}", told.get("hint"))
