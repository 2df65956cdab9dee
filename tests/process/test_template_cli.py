"""The packages are LangChain templates: langchain-cli serves them, and adds them to somebody's app."""

import contextlib
import os
import shutil
import signal
import subprocess  # noqa: TID251 - the command line is what is tested
import sys
import uuid
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from langchain_core.embeddings import DeterministicFakeEmbedding
from rag_chat import File, Ingest, Limits, PassageStore, Where

from tests.process.fleet import DEADLINE, engine_launch
from tests.processes import MARK, eventually, family, until_gone
from tests.product import free_port
from tests.surroundings import ROOT, environment, missing
from tests.unit.corpus import GOOD, image_url, uri

pytestmark = pytest.mark.timeout(400)
PICTURE = uri(GOOD["png"])
PACKAGES = ROOT / "packages"
START = 90.0
"""Seconds for a server with reload: two Pythons import LangChain, one after the other."""

NO_NETWORK = """\
import socket

resolve = socket.getaddrinfo

def only_here(host, *args, **kwargs):
    if host not in ("127.0.0.1", "localhost", None):
        raise OSError(f"{host} is not this machine")
    return resolve(host, *args, **kwargs)

socket.getaddrinfo = only_here
"""
"""A sitecustomize: langchain-cli reports its commands to its makers and has no switch for it."""

PYPROJECT = """\
[tool.poetry]
name = "somebodys-app"
version = "0.1.0"

[tool.poetry.dependencies]
python = "^3.11"
"""

SERVER = """\
from fastapi import FastAPI
from langserve import add_routes
{imports}

app = FastAPI()
{routes}
"""


@dataclass(frozen=True)
class Shell:
    """Runs langchain-cli as a person would, cut off from other machines."""

    home: Path
    mark: str
    engine_url: str
    path: tuple[Path, ...] = ()

    def env(self) -> dict[str, str]:
        """Its own home, so that no cache of the person's is read or written."""
        where = os.pathsep.join(map(str, (self.home, *self.path)))
        told = {"HOME": str(self.home), "XDG_CONFIG_HOME": str(self.home), "PYTHONPATH": where, MARK: self.mark}
        engine = {"VLLM_BASE_URL": f"{self.engine_url}/v1", "VLLM_MODEL": "smollm2"}
        retrieval = {
            "VLLM_EMBEDDINGS_URL": f"{self.engine_url}/v1",
            "VLLM_EMBEDDINGS_MODEL": "smollm2",
            "QDRANT_PATH": str(self.home / "documents"),
        }
        return environment(**told, **engine, **retrieval)

    def run(self, *command: str, cwd: Path) -> str:
        """Run a command to its end; return what it said."""
        done = subprocess.run(command, cwd=cwd, env=self.env(), capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    @contextlib.asynccontextmanager
    async def serving(self, *command: str, cwd: Path) -> AsyncGenerator[str, None]:
        """Keep ``langchain ...`` running; yields its URL once it is there. Ctrl-C ends it, and nothing of it stays."""
        port = free_port()
        argv = [sys.executable, "-m", "langchain_cli.cli", *command, "--port", str(port)]
        log = self.home / "server.log"
        with (
            log.open("wb") as said,
            subprocess.Popen(argv, cwd=cwd, env=self.env(), stdout=said, stderr=said) as process,  # noqa: ASYNC220
        ):
            try:
                await until_served(f"http://127.0.0.1:{port}", process)
                yield f"http://127.0.0.1:{port}"
            finally:
                running = family(process.pid, self.mark)
                process.send_signal(signal.SIGINT)
                left = until_gone(running, within=DEADLINE)
                for stubborn in left:
                    stubborn.kill()
                sys.stdout.write(log.read_text())  # pytest shows it where a test failed
        assert not left, f"left behind: {left}"


async def until_served(url: str, process: subprocess.Popen[bytes]) -> None:
    """Wait until the API's documentation is there, or the server has ended."""
    async with httpx.AsyncClient(base_url=url) as client:

        async def look() -> int | None:
            with contextlib.suppress(httpx.TransportError):
                return (await client.get("/docs")).status_code
            return process.poll()

        assert await eventually(look, lambda status: status is not None, within=START) == 200


async def answer(url: str) -> str:
    """What the chain at this URL answers."""
    body = {"input": {"messages": [{"role": "user", "content": "hi"}]}}
    async with httpx.AsyncClient(timeout=DEADLINE) as client:
        response = await client.post(f"{url}/invoke", json=body)
    assert response.status_code == 200, response.text
    return response.json()["output"]["content"]


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    """A shell whose template finds a fake engine."""
    mark, port = uuid.uuid4().hex, free_port()
    home = tmp_path / "home"
    home.mkdir()
    (home / "sitecustomize.py").write_text(NO_NETWORK)
    launch = engine_launch("smollm2", port)
    with subprocess.Popen(launch.argv, env=dict(launch.env), stdout=subprocess.DEVNULL) as engine:
        yield Shell(home, mark, f"http://127.0.0.1:{port}")
        engine.kill()


@pytest.fixture
def repository(shell: Shell, tmp_path: Path) -> Path:
    """A git repository that holds the packages, as they are in the working tree."""
    if shutil.which("git") is None:
        missing("git")
    there = tmp_path / "repository"
    shutil.copytree(ROOT / "packages", there / "packages", ignore=shutil.ignore_patterns("__pycache__"))
    author = ("-c", "user.name=test", "-c", "user.email=test@localhost")
    for command in (["init", "-q"], ["add", "."], [*author, "commit", "-q", "-m", "Packages"]):
        shell.run("git", *command, cwd=there)
    return there


async def fill(folder: Path) -> None:
    """Bring a document into an embedded store."""
    store = PassageStore(Where(str(folder)))
    ingest = Ingest(store, DeterministicFakeEmbedding(size=2), "fake", Limits())
    assert [progress.phase async for progress in ingest("docs", File("rivers.md", b"# Rivers\nThe Elbe."))][
        -1
    ] == "done"
    await store.aclose()


@pytest.mark.parametrize(
    ("package", "ends"),
    [("smollm2-chat", ""), ("tools-agent", ""), ("rag-chat", "[1] rivers.md, “Rivers”, line 2")],
)
async def test_a_template_serves_itself(shell: Shell, package: str, ends: str) -> None:
    """``langchain template serve`` inside the package: documentation, playground and an answer."""
    await fill(shell.home / "documents")
    async with shell.serving("template", "serve", cwd=PACKAGES / package) as url:
        async with httpx.AsyncClient(base_url=url, timeout=DEADLINE) as client:
            assert (await client.get("/playground/")).status_code == 200
        said = await answer(url)
    assert said.startswith("word")
    assert said.strip().endswith(ends)


async def test_the_template_that_sees_serves_itself(shell: Shell) -> None:
    """It takes a picture beside a question."""
    asked = [{"role": "user", "content": [{"type": "text", "text": "hi"}, image_url(PICTURE)]}]
    async with (
        shell.serving("template", "serve", cwd=PACKAGES / "glm4v-chat") as url,
        httpx.AsyncClient(base_url=url, timeout=DEADLINE) as client,
    ):
        assert (await client.get("/playground/")).status_code == 200
        answered = await client.post("/invoke", json={"input": {"messages": asked}})
    assert answered.json()["output"]["content"].startswith("word")


async def test_the_template_that_draws_serves_itself(shell: Shell) -> None:
    """It says what it takes, and its playground asks for that."""
    async with (
        shell.serving("template", "serve", cwd=PACKAGES / "image-generation") as url,
        httpx.AsyncClient(base_url=url, timeout=DEADLINE) as client,
    ):
        assert (await client.get("/playground/")).status_code == 200
        assert "negative_prompt" in (await client.get("/input_schema")).text


async def test_the_template_can_be_added_to_an_app(shell: Shell, repository: Path, tmp_path: Path) -> None:
    """``langchain app add`` copies it out of a git repository, and the lines it prints serve it."""
    app = tmp_path / "somebodys-app"
    (app / "app").mkdir(parents=True)
    (app / "pyproject.toml").write_text(PYPROJECT)
    source = f"git+file://{repository}#subdirectory=packages/smollm2-chat"

    said = shell.run(sys.executable, "-m", "langchain_cli.cli", "app", "add", source, "--no-pip", cwd=app)
    assert "smollm2-chat" in (app / "pyproject.toml").read_text()
    lines = said.splitlines()
    imports = [line for line in lines if line.startswith("from ")]
    routes = [line for line in lines if line.startswith("add_routes")]
    assert len(imports) == len(routes) == 1
    (app / "app" / "__init__.py").touch()
    (app / "app" / "server.py").write_text(SERVER.format(imports=imports[0], routes=routes[0]))

    site = installed(shell, tmp_path / "site", app / "packages" / "smollm2-chat", repository / "packages" / "chat-vllm")
    path = (site, app)  # somebody's app comes before the one of this repository, which has the same name
    async with Shell(shell.home, shell.mark, shell.engine_url, path).serving("serve", cwd=app) as url:
        assert (await answer(f"{url}/smollm2-chat")).startswith("word")


def installed(shell: Shell, site: Path, *packages: Path) -> Path:
    """Build and install packages into a folder, as pip does, without asking an index for anything."""
    quiet = ("--no-index", "--no-deps", "--no-build-isolation", "--quiet", "--disable-pip-version-check")
    shell.run(
        sys.executable, "-m", "pip", "install", *quiet, "--target", str(site), *map(str, packages), cwd=site.parent
    )
    assert (site / "smollm2_chat" / "py.typed").exists()
    return site
