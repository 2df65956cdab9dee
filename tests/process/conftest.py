"""Fixtures of the process tests: a run directory, and fake engines in it that must be gone in the end."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.process.databases import MakeDatabase, databases
from tests.process.fleet import Fleet
from tests.processes import until_gone
from vllm_launcher.processes.run_directory import RunDirectory

MakeFleet = Callable[..., Fleet]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunDirectory]:
    """An owned run directory."""
    with contextlib.closing(RunDirectory.open(tmp_path / "run")) as directory:
        yield directory


@pytest.fixture
def fleet(run: RunDirectory) -> Iterator[MakeFleet]:
    """Makes a fleet from modes by model. Whatever the test did, no process of it may be left."""
    fleets: list[Fleet] = []

    def make(env: dict[str, str] | None = None, **modes: str) -> Fleet:
        fleets.append(Fleet(run, modes, env or {}))
        return fleets[-1]

    yield make
    for made in fleets:
        left = until_gone(made.processes(), within=5)
        for process in left:
            process.kill()
        assert not left, f"left behind: {left}"
        assert not made.ports.held


@pytest.fixture(scope="session")
def make_database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakeDatabase]:
    """Makes empty databases; one PostgreSQL for all tests."""
    with databases(tmp_path_factory.mktemp("postgresql")) as make:
        yield make


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, make_database: MakeDatabase, tmp_path: Path) -> str:
    """The URL of an empty database: every test runs on both."""
    return make_database(request.param, tmp_path)
