"""What a request brings: files of a form, or texts of a JSON body, bounded while they arrive."""

import asyncio
import re
from collections.abc import AsyncGenerator
from typing import Annotated, TypeVar

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from rag_chat import File
from rag_chat.retriever import By
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException

from app.errors import InvalidInput, TooLarge, TooSlow
from app.guard.bodies import read_json
from app.responses import invalid
from app.settings import Documents, Limits

T = TypeVar("T", bound=BaseModel)
SOURCE_LIMIT = 400
"""Characters of a document's name."""
COLLECTION = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f\u200b-\u200f\u2028-\u202e\u2066-\u2069]")


class Text(BaseModel):
    """A document as text."""

    model_config = ConfigDict(extra="forbid")

    source: str = Field(description="Its name for people, like a path: guide/start.md. Its end tells its kind.")
    text: str
    media_type: str | None = Field(None, description="Its kind, where its name does not tell: text/markdown.")


class Texts(BaseModel):
    """Documents as texts."""

    model_config = ConfigDict(extra="forbid")

    documents: Annotated[list[Text], Field(min_length=1)]


class Search(BaseModel):
    """A question to a collection."""

    model_config = ConfigDict(extra="forbid")

    query: Annotated[str, Field(min_length=1, max_length=4000)]
    limit: Annotated[int, Field(ge=1, le=50)] = 5
    by: By = "both"


class BoundedRequest(Request):
    """A request whose body ends with ``TooLarge`` where it has more bytes than ``limit``."""

    limit: int

    async def stream(self) -> AsyncGenerator[bytes, None]:
        """Yield the body's pieces."""
        seen = 0
        async for piece in super().stream():
            seen += len(piece)
            if seen > self.limit:
                raise TooLarge(f"The files are larger than {self.limit} bytes together.", param="files")
            yield piece


def collection_of(request: Request) -> str:
    """Return the collection that a path names.

    Raises:
        InvalidInput: It is no name of one.
    """
    name: str = request.path_params["collection"]
    if COLLECTION.fullmatch(name) is None:
        message = "A collection's name has lower-case letters, digits, - and _, at most 64 of them."
        raise InvalidInput(message, param="collection")
    return name


async def files_of(request: Request, documents: Documents, limits: Limits) -> list[File]:
    """Return the documents that a request brings.

    Raises:
        ServiceError: It brings none, or more than it may.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return await _uploaded(request, documents)
    if kind != "application/json":
        hint = "Send files as multipart/form-data, or texts as application/json."
        raise InvalidInput("The body is neither a form nor JSON.", hint=hint, param="content-type")
    texts = await parsed(request, Texts, limits)
    if len(texts.documents) > documents.files:
        raise TooLarge(f"More than {documents.files} documents.", param="documents")
    return [File(source_of(each.source), each.text.encode(), each.media_type) for each in texts.documents]


async def parsed(request: Request, model: type[T], limits: Limits) -> T:
    """Return a JSON body as ``model``.

    Raises:
        ServiceError: It does not fit.
    """
    try:
        return model.model_validate(await read_json(request, limits))
    except ValidationError as error:
        raise invalid(error.errors(include_url=False, include_input=False)) from error


async def _uploaded(request: Request, documents: Documents) -> list[File]:
    bounded = BoundedRequest(request.scope, request.receive)
    bounded.limit = documents.upload_bytes
    try:
        async with asyncio.timeout(documents.upload_seconds), bounded.form(max_files=documents.files) as form:
            files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
            if not files:
                raise InvalidInput("The form holds no file.", hint="curl -F files=@guide.md …", param="files")
            return [await _file(each, documents.file_bytes) for each in files]
    except TimeoutError as error:
        raise TooSlow(f"The files did not arrive within {documents.upload_seconds:g} s.") from error
    except (MultiPartException, HTTPException) as error:
        said = error.message if isinstance(error, MultiPartException) else str(error.detail)
        if "Too many files" in said:
            raise TooLarge(f"More than {documents.files} files.", param="files") from error
        raise InvalidInput(f"The form cannot be read: {said}", param="files") from error


async def _file(upload: UploadFile, limit: int) -> File:
    source = source_of(upload.filename or "")
    if upload.size is not None and upload.size > limit:
        raise TooLarge(f"'{source}' is larger than {limit} bytes.", param="files")
    return File(source, await upload.read(), upload.content_type)


def source_of(name: str) -> str:
    """Return a document's name as it is kept: a relative path that says nothing surprising.

    Raises:
        InvalidInput: It is none.
    """
    steps = [step for step in name.replace("\\", "/").split("/") if step not in ("", ".")]
    source = "/".join(steps)
    if not source or len(source) > SOURCE_LIMIT or ".." in steps or UNPRINTABLE.search(source):
        message = f"A document's name is a relative path of at most {SOURCE_LIMIT} printable characters."
        raise InvalidInput(message, param="source")
    return source
