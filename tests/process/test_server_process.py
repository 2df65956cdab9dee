"""One process tree below a guard: starting, stopping, output, exit, and what happens when somebody dies."""

import asyncio
import contextlib
import os
import sys
import time
import uuid
from pathlib import Path

import psutil
import pytest

from tests.process.fleet import DEADLINE, marked
from tests.processes import MARK, until_gone
from vllm_launcher.processes.process import Launch, ServerProcess, run
from vllm_launcher.processes.process_log import ProcessLog

PYTHON = (sys.executable, "-I", "-S", "-c")
BUSY = "import time; print('up', flush=True); time.sleep(600)"
DEAF = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {BUSY}"


def launch(script: str, **env: str) -> Launch:
    """A small Python program."""
    return Launch((*PYTHON, script), {"PATH": os.defpath, **env})


async def started(script: str, tmp_path: Path, **env: str) -> ServerProcess:
    """A process that has printed its first line."""
    up = asyncio.Event()
    process = await ServerProcess.start(launch(script, **env), log=tmp_path / "log", on_line=lambda _: up.set())
    await asyncio.wait_for(up.wait(), DEADLINE)
    return process


@pytest.mark.parametrize(("script", "code"), [("", 0), ("raise SystemExit(7)", 7), ("import os; os.abort()", 134)])
async def test_the_exit_code_is_the_childs(tmp_path: Path, script: str, code: int) -> None:
    """As a shell gives it: 128 + n after signal n."""
    assert (await run(launch(script), log=tmp_path / "log")).code == code


async def test_a_program_that_cannot_be_run_exits_127_and_says_so(tmp_path: Path) -> None:
    """The log holds the reason."""
    finished = await run(Launch(("/no/such/program",), {}), log=tmp_path / "log")
    assert finished.code == 127
    assert finished.tail == ["cannot run /no/such/program: No such file or directory"]


async def test_the_environment_is_what_was_passed(tmp_path: Path) -> None:
    """Nothing comes from the launcher's own."""
    finished = await run(launch("import os; print(*sorted(os.environ))", MINE="1"), log=tmp_path / "log")
    names = set(finished.tail[0].split())
    assert names - {"LC_CTYPE"} == {"PATH", "MINE", "LANGSERVE_VLLM_RUN_ID", "SPT_NOENV"}


async def test_no_file_descriptor_is_inherited(tmp_path: Path) -> None:
    """Beside the three standard ones there is only the one that lists them."""
    with (tmp_path / "open").open("w") as file:
        os.set_inheritable(file.fileno(), True)  # noqa: FBT003 - it takes no keyword
        finished = await run(launch("import os; print(os.listdir('/proc/self/fd'))"), log=tmp_path / "log")
    assert finished.tail == ["['0', '1', '2', '3']"]


STANDARD_SIGNALS = (1 << 31) - 1
"""Signals 1 to 31; 32 and 33 are the C library's own, and whoever started the tests may have left them ignored."""


async def test_signals_are_at_their_defaults(tmp_path: Path) -> None:
    """Python ignores SIGPIPE; what the guard starts does not inherit that."""
    command = Launch(("sh", "-c", "grep SigIgn /proc/self/status"), {"PATH": os.defpath})
    finished = await run(command, log=tmp_path / "log")
    ignored = int(finished.tail[0].split()[1], 16)
    assert ignored & STANDARD_SIGNALS == 0


async def test_output_goes_to_the_log_and_line_by_line_to_the_callback(tmp_path: Path) -> None:
    """Both streams; a carriage return ends a line too, as progress bars use it."""
    lines: list[str] = []
    script = r"printf 'one\n10%%\r20%%\n'; printf two >&2"
    command = Launch(("sh", "-c", script), {"PATH": os.defpath})
    finished = await run(command, log=tmp_path / "log", on_line=lines.append)
    assert lines == ["one", "10%", "20%", "two"]
    assert finished.tail == lines
    assert (tmp_path / "log").read_bytes() == b"one\n10%\r20%\ntwo"


async def test_a_full_log_is_moved_aside(tmp_path: Path) -> None:
    """The file stays below its bound, the one before is kept, the tail is complete."""
    log = ProcessLog(tmp_path / "log", max_bytes=100)
    for number in range(30):
        log.feed(b"line %02d\n" % number)
    log.close()
    assert (tmp_path / "log").stat().st_size <= 100
    assert (tmp_path / "log.1").stat().st_size <= 100
    assert log.tail(30) == [f"line {number:02d}" for number in range(30)]


async def test_stop_asks_first(tmp_path: Path) -> None:
    """SIGTERM is enough for a program that heeds it."""
    process = await started(BUSY, tmp_path)
    assert await process.stop(DEADLINE) == 143
    assert not process.alive
    assert await process.stop(DEADLINE) == 143


async def test_stop_kills_after_the_grace(tmp_path: Path) -> None:
    """A program that ignores SIGTERM has the grace, and no more."""
    process = await started(DEAF, tmp_path)
    began = time.monotonic()
    assert await process.stop(0.2) == 137
    assert time.monotonic() - began < 5


async def test_a_cancelled_stop_kills(tmp_path: Path) -> None:
    """Who has no patience for the grace gets the end at once."""
    process = await started(DEAF, tmp_path)
    stopping = asyncio.create_task(process.stop(600))
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stopping, 0.1)
    assert await asyncio.wait_for(process.wait(), DEADLINE) == 137


async def test_a_cancelled_run_leaves_nothing(tmp_path: Path) -> None:
    """An installer that is not wanted any more is gone, with everything that it started."""
    mark = uuid.uuid4().hex
    up = asyncio.Event()
    script = f"import subprocess, sys; subprocess.Popen([*sys.argv[1:], {BUSY!r}], start_new_session=True).wait()"
    command = Launch((*PYTHON, script, *PYTHON), {MARK: mark})
    running = asyncio.create_task(run(command, log=tmp_path / "log", on_line=lambda _: up.set()))
    await asyncio.wait_for(up.wait(), DEADLINE)
    before = marked(mark)
    assert len(before) == 3
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert not until_gone(before, within=0)


async def test_sigterm_to_the_guard_reaches_the_child(tmp_path: Path) -> None:
    """Somebody who ends the guard politely ends the child politely."""
    script = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(5)); " + BUSY
    process = await started(script, tmp_path)
    guard = psutil.Process(process.pid).parent()
    assert guard is not None
    guard.terminate()
    assert await asyncio.wait_for(process.wait(), DEADLINE) == 5


async def test_memory_is_that_of_the_whole_tree(tmp_path: Path) -> None:
    """Fifty megabytes in a grandchild are seen."""
    hoard = "block = bytearray(50_000_000); import time; print('up', flush=True); time.sleep(600)"
    script = f"import subprocess, sys; subprocess.run([sys.executable, '-I', '-S', '-c', {hoard!r}])"
    process = await started(script, tmp_path)
    assert await process.rss_bytes() > 50_000_000
    await process.kill()
    assert await process.rss_bytes() == 0


async def test_a_record_lives_as_long_as_its_process(tmp_path: Path) -> None:
    """It is there while there is something to find, and not longer."""
    record = tmp_path / "servers" / "a.json"
    process = await ServerProcess.start(launch(BUSY), log=tmp_path / "log", record=record)
    assert record.exists()
    await process.kill()
    assert not record.exists()


async def test_the_guard_is_up_soon(tmp_path: Path) -> None:
    """Starting costs tens of milliseconds of processor time, not the import of a project."""
    process = await started(BUSY, tmp_path)
    guard = psutil.Process(process.pid).parent()
    assert guard is not None
    times = guard.cpu_times()
    await process.kill()
    assert times.user + times.system < 0.3
