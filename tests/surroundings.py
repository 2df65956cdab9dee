"""What the tests read from the machine around them: the only module of theirs that reads the environment."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

import pytest

ROOT = Path(__file__).resolve().parent.parent
ARTIFACTS = ROOT / "artifacts"
"""Logs and screenshots of the last run, for people; never under version control."""

_ENVIRONMENT: Mapping[str, str] = os.environ  # noqa: TID251 - here and nowhere else in the tests
_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def in_ci() -> bool:
    """Whether a missing service is a failure."""
    return _ENVIRONMENT.get("CI", "").lower() in {"1", "true"}


def missing(what: str) -> NoReturn:
    """Give up on a test for lack of something: a visible skip at a desk, a failure in CI."""
    if in_ci():
        pytest.fail(f"missing in CI: {what}", pytrace=False)
    pytest.skip(f"missing: {what}")


def environment(**changes: str) -> dict[str, str]:
    """The environment for a process of ours, with changes."""
    return {**_ENVIRONMENT, **changes}


def running_product() -> tuple[str, Path, str | None] | None:
    """The app's URL, run directory and gRPC address of a product a developer keeps running, so that a test starts none.

    Set LANGSERVE_VLLM_TEST_URL, LANGSERVE_VLLM_TEST_RUN and, if it has one, LANGSERVE_VLLM_TEST_GRPC (host and port).
    CI always starts its own.
    """
    url, run_dir = _ENVIRONMENT.get("LANGSERVE_VLLM_TEST_URL"), _ENVIRONMENT.get("LANGSERVE_VLLM_TEST_RUN")
    if in_ci() or not url or not run_dir:
        return None
    return url.rstrip("/"), Path(run_dir), _ENVIRONMENT.get("LANGSERVE_VLLM_TEST_GRPC")


def browser() -> Path:
    """The system's Chromium."""
    found = next(filter(None, map(shutil.which, _BROWSERS)), None)
    return Path(found) if found else missing("Chromium (Debian and Ubuntu: apt-get install chromium)")


def node() -> Path:
    """Node.js: the one the development lock brings, else the system's."""
    bundled = ROOT / ".venv" / "bin" / "node"
    found = bundled if bundled.exists() else shutil.which("node")
    return Path(found) if found else missing("Node.js (make dev installs it)")
