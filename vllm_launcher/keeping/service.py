"""Everything that runs while the launcher is up, in its order, until somebody wants it to stop."""

import asyncio
import contextlib
import logging
import signal
from collections.abc import AsyncGenerator

import psutil

from vllm_launcher.control import ControlServer
from vllm_launcher.errors import PortTaken
from vllm_launcher.keeping.child import SupervisedChild
from vllm_launcher.keeping.launcher import Launcher
from vllm_launcher.processes.run_directory import RunDirectory

logger = logging.getLogger(__name__)


async def serve(
    launcher: Launcher,
    *,
    run: RunDirectory,
    control: ControlServer,
    app: SupervisedChild | None = None,
    stop: asyncio.Event,
) -> None:
    """Run until ``stop`` is set. Nothing is left when it returns, nor when it raises ChildFailed (the app's).

    First the orphans of an earlier launcher go; then the app starts, which answers while models load; at the end
    the app goes first, so that nobody is routed to a server that drains.
    """
    ended = await asyncio.to_thread(run.sweep_orphans)
    if ended:
        logger.warning("ended %d processes that an earlier launcher had left behind", len(ended))
    async with control, launcher, _kept(app) as app_task:
        stopping = asyncio.create_task(stop.wait())
        waiting = {stopping, app_task} if app_task else {stopping}
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if app_task is not None and app_task.done():
            app_task.result()


@contextlib.asynccontextmanager
async def _kept(app: SupervisedChild | None) -> AsyncGenerator[asyncio.Task[None] | None, None]:
    if app is None:
        yield None
        return
    task = asyncio.create_task(app.keep(), name="keep app")
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def stop_signals() -> asyncio.Event:
    """An event that SIGINT or SIGTERM sets. The second signal ends the process at once; its guards clean up."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def note() -> None:
        stop.set()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, note)
    return stop


async def check_port_free(host: str, port: int) -> None:
    """Raise PortTaken, naming the process where it can be seen, if nobody could listen on ``host:port`` now."""
    try:
        server = await asyncio.start_server(lambda _reader, _writer: None, host, port)
    except OSError as error:
        owner = await asyncio.to_thread(_listener, port)
        raise PortTaken(
            f"{host}:{port} cannot be listened on{f': {owner} does already' if owner else f' ({error.strerror})'}.",
            "Choose another with --port (gRPC: --grpc-port), or stop that program.",
        ) from error
    server.close()
    await server.wait_closed()


def _listener(port: int) -> str | None:
    with contextlib.suppress(psutil.Error):
        for connection in psutil.net_connections("tcp"):
            listens = connection.status == psutil.CONN_LISTEN and connection.laddr[1:] == (port,)
            if listens and connection.pid:
                return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
    return None
