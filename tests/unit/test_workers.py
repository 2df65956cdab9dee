"""What a worker gets of what the settings allow, and what several workers write together."""

import json
import logging
from pathlib import Path

import pytest

from app.guard.audit import FILES, TOGETHER, AuditLog, SharedFile
from app.guard.call import Call
from app.server import create_app, open_sessions
from app.settings import Limits, Settings
from app.workers.worker import ALONE, DIVIDED, Worker, divide
from tests.unit.scripted import ScriptedEngine, ScriptedLauncher, says, server, settings


@pytest.mark.parametrize(("total", "of"), [(512, 2), (7, 3), (4, 4), (256, 256)])
def test_the_shares_make_up_the_whole(total: int, of: int) -> None:
    """Nothing is lost and nothing is invented, and no worker has much more than another."""
    shares = [Worker(number, of).share(total) for number in range(of)]
    assert sum(shares) == total
    assert max(shares) - min(shares) <= 1


def test_no_worker_is_left_without_a_share() -> None:
    """Fewer places than workers: each has one, as none could ever answer otherwise."""
    assert [Worker(number, 3).share(2) for number in range(3)] == [1, 1, 1]


def test_one_worker_is_told_what_the_settings_say() -> None:
    """Nothing changes for who has one."""
    told = Settings()
    assert divide(told, ALONE) is told


def test_limits_of_the_whole_service_are_shared_out_and_those_of_one_process_are_not() -> None:
    """Every worker keeps to its share; a body may be as large, and a line as long as ever."""
    told = Settings()
    parts = [divide(told, Worker(number, 3)) for number in range(3)]
    for name in DIVIDED:
        assert sum(getattr(part.limits, name) for part in parts) == max(3, getattr(told.limits, name))
    for name in set(Limits.model_fields) - set(DIVIDED):
        assert {getattr(part.limits, name) for part in parts} == {getattr(told.limits, name)}


def test_workers_together_send_an_engine_no_more_than_it_takes(tmp_path: Path) -> None:
    """The places of the fair line are shared out, those of a model whose entry says nothing too."""
    engine = ScriptedEngine(says("x"))
    told = settings(tmp_path, engine_sequences=5, engine_oversubscription=1)
    apps = [
        create_app(told, launcher=ScriptedLauncher(server()), connections=engine, worker=Worker(number, 2))
        for number in range(2)
    ]
    assert [app.state.guarding.places["tiny"] for app in apps] == [3, 2]


def test_workers_write_one_audit_log(tmp_path: Path) -> None:
    """Whoever turns the full file over, no line is lost, torn or written to a file that has gone."""
    path, lines, most = tmp_path / "logs" / "audit.jsonl", 400, 150_000
    logs = [AuditLog(path, file_bytes=most) for _ in range(3)]
    for number in range(lines):
        for worker, log in enumerate(logs):
            call = Call(f"{worker}-{number}", "openai", "/v1/chat/completions")
            log.note(call, status=200, outcome="complete", seconds=0.1)
    for log in logs:
        log.close()
    files = sorted(path.parent.glob("audit.jsonl*"))
    assert 2 <= len(files) <= FILES
    at_once = 400 * (TOGETHER + 1)
    assert all(file.stat().st_size <= most + 2 * at_once for file in files)  # the others may have looked before
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
    written = [json.loads(line)["request_id"] for file in files for line in file.read_text().splitlines()]
    assert sorted(written) == sorted(f"{worker}-{number}" for worker in range(3) for number in range(lines))


def test_a_worker_follows_the_audit_log_that_another_has_turned_over(tmp_path: Path) -> None:
    """It writes to the file that has the name now, and turns over no second one because its own was full."""
    path = tmp_path / "audit.jsonl"
    one, other = (SharedFile(path, maxBytes=1000, backupCount=FILES, encoding="utf-8", delay=True) for _ in range(2))

    def write(file: SharedFile, line: str) -> None:
        file.handle(logging.LogRecord("audit", logging.INFO, "", 0, line, None, None))

    write(one, "a" * 300)
    write(other, "b" * 300)
    write(one, "c" * 500)  # one too much
    write(other, "d" * 100)
    turned = path.with_name("audit.jsonl.1")
    assert turned.read_text().split() == ["a" * 300, "b" * 300]
    assert path.read_text().split() == ["c" * 500, "d" * 100]
    write(one, "e" * 500)
    other.doRollover()  # found full before the line above turned it over
    write(other, "f" * 100)
    assert turned.read_text().split() == ["c" * 500, "d" * 100]
    assert path.read_text().split() == ["e" * 500, "f" * 100]
    one.close()
    other.close()


async def test_workers_without_a_database_remember_together(tmp_path: Path) -> None:
    """As long as the app runs, in the folder they share; one that is alone needs none."""
    told = Settings(sessions_url=None)
    stores = [await open_sessions(told, Worker(number, 2, tmp_path)).opened() for number in range(2)]
    assert {str(store.engine.url) for store in stores} == {f"sqlite+aiosqlite:///{tmp_path / 'sessions.db'}"}
    assert str((await open_sessions(told).opened()).engine.url) == "sqlite+aiosqlite://"
