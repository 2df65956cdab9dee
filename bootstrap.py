"""Make the app's environment: ``.venv`` from a pinned, hashed lock.

``python3 bootstrap.py`` makes what ``make serve`` needs; ``--dev`` what ``make test`` needs besides.
Standard library alone, for it runs before anything is installed. A second call costs nothing: ``.venv/.complete``
holds a digest of everything that went in and is written last, so a half-made environment is never taken for whole.
"""

import argparse
import ctypes
import hashlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / ".complete"
OLDEST, NEWEST = (3, 11), (3, 13)
PR_SET_PDEATHSIG = 1


class BootstrapError(Exception):
    """What is wrong, and what to do about it."""


def main() -> int:
    """Make the environment; 0 when it is whole, 1 with a sentence when it is not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dev", action="store_true", help="with the tools and clients of the tests")
    arguments = parser.parse_args()
    die_with_parent(signal.SIGTERM)
    try:
        use_fitting_python()
        make_environment(dev=arguments.dev)
        if arguments.dev:
            install_javascript_client()
            install_browser()
    except BootstrapError as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        say("stopped; the next call goes on from here")
        return 130
    return 0


def use_fitting_python() -> None:
    """Go on in a Python that the locks are made for, if this one is not."""
    if OLDEST <= sys.version_info[:2] <= NEWEST:
        return
    for minor in range(NEWEST[1], OLDEST[1] - 1, -1):
        if found := shutil.which(f"python3.{minor}"):
            os.execv(found, [found, *sys.argv])  # noqa: S606 - an interpreter found on PATH, our own arguments
    raise BootstrapError(
        f"this needs Python 3.{OLDEST[1]} to 3.{NEWEST[1]}, and {sys.executable} is {sys.version.split()[0]}. "
        "Install one of them, or name it: make serve PYTHON=/path/to/python3.12"
    )


def make_environment(*, dev: bool) -> None:
    """Bring ``.venv`` to what the lock says, unless it is there already."""
    lock = ROOT / ("requirements-dev.lock" if dev else "requirements.lock")
    digests = {name: digest(path) for name, path in inputs(lock)}
    wanted = f"{lock.name} {combine(digests)}"
    if is_current(wanted, dev=dev):
        return
    say(f"making {VENV.name} from {lock.name}")
    STAMP.unlink(missing_ok=True)
    make_venv()
    install(["--require-hashes", "-r", str(lock)], total=count_requirements(lock))
    install([*NO_ISOLATION, *editables()], total=None)
    STAMP.write_text(wanted + "\n")
    say(f"{VENV.name} is ready")


NO_ISOLATION = ["--no-deps", "--no-build-isolation"]


def is_current(wanted: str, *, dev: bool) -> bool:
    """Whether ``.venv`` is whole; an environment for the tests serves as well as one without them."""
    if not STAMP.exists() or not PYTHON.exists():
        return False
    have = STAMP.read_text().strip()
    if have == wanted:
        return True
    if dev:
        return False
    full = ROOT / "requirements-dev.lock"
    return have == f"{full.name} {combine({name: digest(path) for name, path in inputs(full)})}"


def inputs(lock: Path) -> Iterator[tuple[str, Path]]:
    """Every file that decides what the environment holds."""
    yield "lock", lock
    yield "project", ROOT / "pyproject.toml"
    for path in sorted((ROOT / "packages").glob("*/pyproject.toml")):
        yield path.parent.name, path


def digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def combine(digests: dict[str, str]) -> str:
    """One digest of them all and of the interpreter."""
    lines = [f"{name} {value}" for name, value in digests.items()]
    return hashlib.sha256("\n".join([sys.version, *lines]).encode()).hexdigest()


def make_venv() -> None:
    """Make an empty environment; one that a call before left half-made is kept if its Python is this one."""
    if PYTHON.exists() and (VENV / "pyvenv.cfg").exists() and same_python():
        return
    if VENV.exists():
        shutil.rmtree(VENV)
    if run([sys.executable, "-m", "venv", str(VENV)]) != 0:
        shutil.rmtree(VENV, ignore_errors=True)
        raise BootstrapError(
            "python -m venv failed. On Debian and Ubuntu: apt-get install python3-venv; "
            "else use a Python that carries the venv module."
        )


def same_python() -> bool:
    """Whether the environment runs on this very interpreter version."""
    answer = subprocess.run(
        [PYTHON, "-c", "import sys, pip; print(sys.version)"], capture_output=True, text=True, check=False
    )
    return answer.stdout.strip() == sys.version


def editables() -> list[str]:
    """The project and its packages, as pip takes them."""
    return [
        part
        for path in [ROOT, *sorted(p.parent for p in (ROOT / "packages").glob("*/pyproject.toml"))]
        for part in ("-e", str(path))
    ]


def count_requirements(lock: Path) -> int:
    """How many distributions a lock pins."""
    return sum("==" in line for line in lock.read_text().splitlines() if line[:1].isalnum())


def install(arguments: list[str], total: int | None) -> None:
    """Run pip with a line of progress for each distribution.

    Raises:
        BootstrapError: pip failed; its last lines are shown.
    """
    command = [str(PYTHON), "-m", "pip", "install", "--progress-bar", "off", "--no-input", *arguments]
    tail: list[str] = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, preexec_fn=die_with_parent_hard
    ) as pip:
        show_progress(pip.stdout or [], tail, total)
    if pip.returncode != 0:
        raise BootstrapError("pip failed:\n  " + "\n  ".join(tail[-8:]) + "\nThe next call goes on from here.")


def show_progress(lines: Iterable[str], tail: list[str], total: int | None) -> None:
    """Turn pip's output into a bar on a terminal, a line now and then without one."""
    seen = 0
    for line in lines:
        tail.append(line.rstrip())
        del tail[:-40]
        if line.startswith("Collecting ") and total:
            seen += 1
            name = line.split()[1].split("==")[0]
            if sys.stdout.isatty():
                print(f"\r\x1b[2K  {bar(seen, total)} {seen}/{total} {name}", end="", flush=True)
            elif seen % 25 == 0 or seen == total:
                say(f"  {seen}/{total} {name}")
        elif line.startswith("Installing collected packages"):
            say(("\r\x1b[2K" if sys.stdout.isatty() else "") + "  installing")


def bar(done: int, total: int, width: int = 24) -> str:
    """A progress bar of ``width`` characters."""
    filled = min(width, width * done // total)
    return "━" * filled + "─" * (width - filled)


def install_javascript_client() -> None:
    """``npm ci`` for the JavaScript client's tests, with the node that the lock brings."""
    folder = ROOT / "tests" / "clients" / "js"
    lock, stamp = folder / "package-lock.json", folder / "node_modules" / ".complete"
    if not lock.exists() or (stamp.exists() and stamp.read_text() == digest(lock)):
        return
    say("installing the JavaScript client")
    path = f"{VENV / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}"
    npm = shutil.which("npm", path=path)
    if npm is None or run([npm, "ci", "--no-audit", "--no-fund", "--loglevel=error"], cwd=folder, path=path) != 0:
        raise BootstrapError("npm ci failed in tests/clients/js; see the lines above")
    stamp.write_text(digest(lock))


BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def install_browser() -> None:
    """The system's Chromium for the browser tests, where this user may install packages."""
    if any(map(shutil.which, BROWSERS)):
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        say("no Chromium found: the browser tests will be skipped. For example: sudo apt-get install chromium")
        return
    say("installing Chromium with apt-get")
    if run(["apt-get", "update", "-qq"]) or run(
        ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "chromium", "fonts-dejavu-core"],
        quiet=True,
    ):
        say("Chromium could not be installed: the browser tests cannot run")


def run(command: list[str], *, cwd: Path = ROOT, path: str | None = None, quiet: bool = False) -> int:
    """Run a command that ends when this process does; its exit status."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", **({"PATH": path} if path else {})}
    output = subprocess.DEVNULL if quiet else None
    return subprocess.run(
        command, cwd=cwd, env=environment, stdout=output, preexec_fn=die_with_parent_hard, check=False
    ).returncode


def die_with_parent(signum: int) -> None:
    """Ask the kernel for ``signum`` when the parent ends, so that a killed ``make`` leaves nothing running."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signum))


def die_with_parent_hard() -> None:
    """Between fork and exec: the child is killed with us."""
    die_with_parent(signal.SIGKILL)


def say(text: str) -> None:
    """One line to the terminal, at once."""
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
