"""The embedding model MiniLM on the real vLLM, served beside the other models of models.json."""

import math
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

DIMENSIONS = 384


@pytest.fixture
async def client(product: Any) -> AsyncIterator[httpx.AsyncClient]:
    """Speaks to the engine."""
    async with httpx.AsyncClient(base_url=product.engine_url_of("minilm"), timeout=60) as http:
        yield http


async def embed(client: httpx.AsyncClient, *texts: str) -> list[list[float]]:
    """Their vectors, in their order."""
    answer = await client.post("/v1/embeddings", json={"model": "minilm", "input": texts})
    assert answer.status_code == 200, answer.text
    return [item["embedding"] for item in sorted(answer.json()["data"], key=lambda item: item["index"])]


def cosine(one: list[float], other: list[float]) -> float:
    """Of two vectors of length 1."""
    return sum(a * b for a, b in zip(one, other, strict=True))


async def test_a_vector_has_384_dimensions_and_length_one(client: httpx.AsyncClient) -> None:
    """As the model card of MiniLM says."""
    (vector,) = await embed(client, "A cat sits on the mat.")
    assert len(vector) == DIMENSIONS
    assert math.sqrt(cosine(vector, vector)) == pytest.approx(1, abs=1e-3)


async def test_sentences_of_one_meaning_are_nearer_than_others(client: httpx.AsyncClient) -> None:
    """What a vector is for."""
    cat, kitten, tax = await embed(client, "A cat sits on the mat.", "A kitten rests on a rug.", "Taxes rose in May.")
    assert cosine(cat, kitten) > 0.5
    assert cosine(cat, tax) < 0.2


async def test_a_text_beyond_256_tokens_is_refused(client: httpx.AsyncClient) -> None:
    """Rather than cut off in silence."""
    answer = await client.post("/v1/embeddings", json={"model": "minilm", "input": "word " * 600})
    assert answer.status_code == 400
