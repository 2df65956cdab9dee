"""LangServe's batches: taken apart into invokes, and put together again.

LangChain's own batch starts every input at once, and one bad input fails all. So here each input is an invoke.
"""

import asyncio
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from app.errors import InvalidInput, TooLarge, describe, meaning
from app.guard.bodies import Preferences
from app.responses import name_error


@dataclass(frozen=True)
class Item:
    """One input of a batch, as the body of an invoke, and its place in the batch's body."""

    body: Mapping[str, Any]
    place: tuple[str | int, ...]


def split(body: Mapping[str, Any], limit: int) -> list[Item]:
    """Return the inputs of a batch's body, each with its config.

    Raises:
        InvalidInput: ``inputs`` is no list, or ``config`` a list of another length.
        TooLarge: More than ``limit`` inputs.
    """
    inputs: Any = body["inputs"]
    if not isinstance(inputs, list):
        raise InvalidInput("inputs: a list, one input for each answer.", param="inputs")
    count = len(cast("list[Any]", inputs))
    if count > limit:
        raise TooLarge(f"{count} inputs are more than {limit}.", hint="Send several batches.", param="inputs")
    configs = _configs(body.get("config"), count)
    return [
        Item({"input": value, "config": config}, ("inputs", index))
        for index, (value, config) in enumerate(zip(cast("list[Any]", inputs), configs, strict=True))
    ]


def _configs(config: Any, count: int) -> list[Any]:
    if not isinstance(config, list):
        return [config] * count
    configs = cast("list[Any]", config)
    if len(configs) != count:
        raise InvalidInput(f"config: {len(configs)} configs for {count} inputs.", param="config")
    return configs


def tolerates(body: Mapping[str, Any], preferences: Preferences) -> bool:
    """Tell whether each input answers for itself: ``"kwargs": {"return_exceptions": true}``, or the header.

    The header is for ``RemoteRunnable``, which refuses the argument but sends headers.
    """
    kwargs: Any = body.get("kwargs")
    asked = isinstance(kwargs, dict) and cast("dict[str, Any]", kwargs).get("return_exceptions") is True
    return asked or preferences.return_exceptions


async def gather(answers: Iterable[Awaitable[Mapping[str, Any]]]) -> list[Mapping[str, Any]]:
    """Await all; the first error cancels the others and is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_await(answer)) for answer in answers]
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from errors
    return [task.result() for task in tasks]


async def _await(answer: Awaitable[Mapping[str, Any]]) -> Mapping[str, Any]:
    return await answer


def join(answers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return langserve's body for a batch."""
    responses = [answer["metadata"] for answer in answers]
    return {
        "output": [answer["output"] for answer in answers],
        "metadata": {"responses": responses, "run_ids": [response["run_id"] for response in responses]},
    }


def item_error(error: Exception) -> Mapping[str, Any]:
    """Return an error in the place of an output, in the shape and with the status it would have alone."""
    named = name_error(error)
    body = {"error": {**describe(named), "status_code": meaning(named).status}}
    return {"output": body, "metadata": {"run_id": None, "feedback_tokens": []}}
