"""The command line of API keys: ``keys create``, ``list`` and ``revoke``, while the app runs or not."""

import json
import re
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from vllm_launcher.errors import LauncherError
from vllm_launcher.keys import Key, KeyStore
from vllm_launcher.settings import Settings

cli = typer.Typer(no_args_is_help=True, help="API keys of the app; changes hold at once.")

AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable.")]
_UNITS = {"m": 60, "h": 3600, "d": 86_400}
_SPAN = re.compile(r"([1-9]\d{0,5})([mhd])")


def parse_span(text: str) -> float:
    """Seconds of ``30m``, ``12h`` or ``90d``."""
    form = _SPAN.fullmatch(text)
    if form is None:
        raise typer.BadParameter("a number with m, h or d after it: 30m, 12h, 90d")
    return int(form[1]) * _UNITS[form[2]]


@cli.command()
def create(  # noqa: PLR0913 -- a command line
    name: Annotated[str, typer.Argument(help="Whose key it is, for people and the audit log.")],
    *,
    models: Annotated[list[str] | None, typer.Option("--model", help="A model it may use (again for more).")] = None,
    requests: Annotated[int | None, typer.Option("--requests-per-minute", min=1)] = None,
    tokens: Annotated[int | None, typer.Option("--tokens-per-minute", min=1, help="Prompts and answers.")] = None,
    streams: Annotated[int | None, typer.Option("--streams", min=1, help="Requests under way at once.")] = None,
    metrics: Annotated[bool, typer.Option("--metrics", help="It may read /metrics.")] = False,
    documents: Annotated[bool, typer.Option("--documents", help="It may ingest and delete documents.")] = False,
    expires: Annotated[
        Any, typer.Option("--expires-in", parser=parse_span, metavar="SPAN", help="30m, 12h or 90d; never if absent.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a key and print it, once: only its hash is kept."""
    with _store() as store:
        key, text = store.create(
            name,
            expires=None if expires is None else time.time() + expires,
            models=tuple(models or ()),
            requests_per_minute=requests,
            tokens_per_minute=tokens,
            streams=streams,
            metrics=metrics,
            documents=documents,
        )
    if as_json:
        typer.echo(json.dumps({**_told(key), "key": text}, indent=2))
        return
    typer.echo(text)
    typer.echo(f"Key {key.id} of {name!r}. It is not shown again.", err=True)


@cli.command(name="list")
def show(*, as_json: AsJson = False) -> None:
    """Show every key, without its secret."""
    with _store() as store:
        keys = store.list()
    if as_json:
        typer.echo(json.dumps([_told(key) for key in keys], indent=2))
    else:
        Console().print(_table(keys))


@cli.command()
def revoke(identity: Annotated[str, typer.Argument(metavar="ID")], *, as_json: AsJson = False) -> None:
    """End a key for good; requests under way go on, new ones are refused at once."""
    try:
        with _store() as store:
            key = store.revoke(identity)
    except LauncherError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None
    typer.echo(json.dumps(_told(key), indent=2) if as_json else f"revoked {key.id} ({key.name})")


@contextmanager
def _store() -> Generator[KeyStore]:
    with KeyStore.opened(Settings().keys_file) as store:
        yield store


def _told(key: Key) -> dict[str, Any]:
    return {**key.model_dump(mode="json"), "state": key.state(time.time())}


def _table(keys: Sequence[Key]) -> Table:
    table = Table("ID", "NAME", "STATE", "MODELS", "LIMITS", "CREATED", "EXPIRES", box=None)
    table.columns[0].no_wrap = True
    for key in keys:
        expires = _day(key.expires) if key.expires else "never"
        models = ", ".join(key.models) or "all"
        table.add_row(key.id, key.name, key.state(time.time()), models, _limits(key), _day(key.created), expires)
    return table


def _limits(key: Key) -> str:
    limits = {"requests/min": key.requests_per_minute, "tokens/min": key.tokens_per_minute, "at once": key.streams}
    told = [f"{limit} {unit}" for unit, limit in limits.items() if limit is not None]
    may = [name for name, given in (("metrics", key.metrics), ("documents", key.documents)) if given]
    return ", ".join([*told, *may]) or "none"


def _day(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d")
