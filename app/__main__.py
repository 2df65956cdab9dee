"""Run the app: ``python -m app``, with everything it needs in its environment (see ``app/settings.py``)."""

import gc
import os
import signal
import socket
import sys
import warnings

from pydantic import ValidationError

from app.guard.certificate import read_pair
from app.settings import Settings
from app.shutdown import give_up
from app.workers.sockets import listen, open_common
from vllm_launcher.keys import MAKE_ONE, NO_KEYS, KeyStore


class NoKeysError(Exception):
    """Nobody could get in."""


def main() -> None:
    """Serve until told to stop.

    The port is opened first: importing LangChain takes seconds, in which connections wait instead of being refused.
    """
    # LangServe's playgrounds live on it; the notice would come with every first request.
    warnings.filterwarnings("ignore", "astream_log is deprecated")
    try:
        settings = Settings()
        check_keys(settings)
        listener = listen(settings.host, settings.port)
        if settings.grpc_port:  # tried now, opened with the app
            listen(settings.host, settings.grpc_port, named="GRPC_PORT").close()
            read_pair(*settings.grpc_files)
    except (ValidationError, OSError, NoKeysError) as error:
        give_up(error)
    gc.disable()  # importing makes a million objects and hardly any garbage: looking for it takes a quarter of the time
    serve = serve_alone if settings.workers == 1 else serve_together
    serve(settings, listener)


def serve_alone(settings: Settings, listener: socket.socket) -> None:
    """Serve in this process."""
    from app.chains import ChainError  # noqa: PLC0415 -- see main
    from app.garbage import settle  # noqa: PLC0415
    from app.memory.kept import StoreError  # noqa: PLC0415
    from app.server import create_app  # noqa: PLC0415
    from app.web_server import run  # noqa: PLC0415
    from vllm_launcher.registry import RegistryError  # noqa: PLC0415

    gc.collect()  # what little there is makes room for the app
    try:
        app = create_app(settings)
    except (RegistryError, ChainError, StoreError) as error:
        give_up(error)
    settle()
    run(app, settings, listener)


def serve_together(settings: Settings, listener: socket.socket) -> None:
    """Serve with several processes, of which this one is the parent."""
    from vllm_launcher.registry import RegistryError, load_registry  # noqa: PLC0415 -- see main

    try:
        with open_common(settings, listener) as common:
            from app.workers.serving import serve  # noqa: PLC0415

            status = serve(settings, common, load_registry(settings.models))
    except (RegistryError, OSError) as error:
        give_up(error)
    if status >= 0:
        sys.exit(status)
    signal.signal(-status, signal.SIG_DFL)
    os.kill(os.getpid(), -status)  # as whoever sent it expects of a process that ends by it


def check_keys(settings: Settings) -> None:
    """Refuse to start where keys are needed and there is none.

    Raises:
        NoKeysError: There is none.
    """
    if not settings.needs_keys:
        return
    if settings.keys is None:
        raise NoKeysError("API keys are needed, and LANGSERVE_VLLM_KEYS names no file of them.")
    with KeyStore.opened(settings.keys) as store:
        if not store.any_active():
            raise NoKeysError(f"{NO_KEYS.format(host=settings.host)} {MAKE_ONE}")


if __name__ == "__main__":
    main()
