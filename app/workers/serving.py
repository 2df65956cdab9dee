"""The parent's work and one worker's life, from settings to the end."""

import importlib
from functools import partial

from app.chains import ChainError
from app.garbage import settle
from app.memory.kept import StoreError
from app.server import create_app
from app.settings import Settings
from app.shutdown import give_up
from app.telemetry.sharing import forget_under_way, share_metrics
from app.web_server import LAST_WORDS, run
from app.workers.prefork import Workers
from app.workers.sockets import Common
from app.workers.worker import divide
from vllm_launcher.registry import Registry, RegistryError

KILLED_AFTER = 1.0
"""Seconds that a worker has beyond its own last words."""


def serve(settings: Settings, common: Common, registry: Registry) -> int:
    """Serve with several workers until told to stop; returns the exit status, below zero for a signal."""
    import_ahead(settings, registry)
    settle()
    workers = Workers(
        partial(live, settings, common),
        common.of,
        grace=settings.drain + LAST_WORDS + KILLED_AFTER,
        bury=partial(forget_under_way, common.folder),
        close=common.close,
    )
    return workers.run()


def import_ahead(settings: Settings, registry: Registry) -> None:
    """Import for all workers at once what each would at its start; a worker tells what is wrong with a package."""
    modules = {spec.chain.package for spec in registry.models if spec.chain is not None}
    if settings.grpc_port:
        modules.add("app.grpc.server")
    for module in sorted(modules):
        try:
            importlib.import_module(module)
        except Exception:  # noqa: BLE001, S112 -- see above
            continue


def live(settings: Settings, common: Common, number: int) -> None:
    """Be one worker."""
    worker = common.worker(number)
    if settings.metrics:
        share_metrics(worker)
    told = divide(settings, worker)
    try:
        app = create_app(told, worker=worker)
    except (RegistryError, ChainError, StoreError) as error:
        give_up(error)
    settle()
    run(app, told, common.listener)
