"""What a model will see, held against the real engine's own word."""

from typing import Any

import httpx

SAID = {"messages": [{"role": "user", "content": "Grüß Gott!"}]}


async def test_what_is_shown_is_what_the_engine_makes_of_it(product: Any) -> None:
    """The shown messages, given to the engine itself, have the same tokens; those tokens read as the shown text."""
    async with httpx.AsyncClient(timeout=60) as client:
        shown = (await client.post(f"{product.url}/models/smollm2/prompt", json=SAID)).raise_for_status().json()
        engine = product.engine_url
        own = (await client.post(f"{engine}/tokenize", json={"messages": shown["messages"]})).raise_for_status().json()
        read = (await client.post(f"{engine}/detokenize", json={"tokens": own["tokens"]})).raise_for_status().json()
    assert [turn["role"] for turn in shown["messages"]] == ["system", "user"]
    assert (shown["tokens"], shown["max_model_len"]) == (own["count"], own["max_model_len"])
    assert shown["text"] == read["prompt"]
    assert "<|im_start|>user\nGrüß Gott!<|im_end|>\n<|im_start|>assistant\n" in shown["text"]


async def test_the_prompt_counts_as_the_answers_usage_does(product: Any, smollm2: httpx.AsyncClient) -> None:
    """What is shown is what is asked: an answer to the same input was given as many tokens."""
    shown = (await smollm2.post(f"{product.url}/models/smollm2/prompt", json=SAID)).raise_for_status().json()
    config = {"configurable": {"max_tokens": 1}}
    answer = (await smollm2.post("/invoke", json={"input": SAID, "config": config})).raise_for_status().json()
    assert answer["output"]["usage_metadata"]["input_tokens"] == shown["tokens"]
