"""What a request for pictures may say."""

from typing import Any

import pytest
from image_generation import ImageInput, ImageLimits
from image_generation.request import limited_input
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.prompt_values import StringPromptValue
from pydantic import ValidationError

SMALL = limited_input(ImageLimits(pictures=2, pixels=1024, steps=50, prompt_characters=30))


@pytest.mark.parametrize(
    "value",
    [
        "a red apple",
        {"prompt": "a red apple"},
        {"input": "a red apple"},
        HumanMessage("a red apple"),
        StringPromptValue(text="a red apple"),
        [HumanMessage("a dog"), AIMessage("drawn"), HumanMessage("a red apple")],
        {"messages": [{"role": "user", "content": "a red apple"}]},
        {"messages": [["system", "Be nice."], ["user", "a red apple"]]},
        {"role": "user", "content": "a red apple"},
        {"type": "human", "content": [{"type": "text", "text": "a red apple"}]},
    ],
)
def test_every_form_of_the_input_is_a_prompt(value: Any) -> None:
    """Of a conversation, what a person said last."""
    assert ImageInput.model_validate(value).prompt == "a red apple"


def test_what_goes_with_the_prompt_comes_beside_it() -> None:
    """In the short form too."""
    asked = ImageInput.model_validate({"input": "a dog", "size": "64x32", "seed": 3})
    assert (asked.prompt, asked.size, asked.seed) == ("a dog", "64x32", 3)


@pytest.mark.parametrize(
    ("value", "place", "said"),
    [
        ({"prompt": "x", "size": "64x64"}, "size", "at most 1024 pixels"),
        ({"prompt": "x", "size": "big"}, "size", "WIDTHxHEIGHT"),
        ({"prompt": "x", "size": "-1x5"}, "size", "WIDTHxHEIGHT"),
        ({"prompt": "x", "size": "0x32"}, "size", "WIDTHxHEIGHT"),
        ({"prompt": "x", "size": "\u0663x\u0663"}, "size", "WIDTHxHEIGHT"),
        ({"prompt": "x", "size": 32}, "size", "WIDTHxHEIGHT"),
        ({"prompt": "x", "n": 3}, "n", "less than or equal to 2"),
        ({"prompt": "x", "n": 0}, "n", "greater than or equal to 1"),
        ({"prompt": "x", "num_inference_steps": 51}, "num_inference_steps", "less than or equal to 50"),
        ({"prompt": "x", "guidance_scale": "hot"}, "guidance_scale", "valid number"),
        ({"prompt": "x", "guidance_scale": float("nan")}, "guidance_scale", "less than or equal"),
        ({"prompt": "x", "seed": 2**64}, "seed", "less than or equal to"),
        ({"prompt": "x", "output_format": "gif"}, "output_format", "'png', 'jpeg' or 'webp'"),
        ({"prompt": "x", "negative_prompt": "y" * 31}, "negative_prompt", "at most 30 characters"),
        ({"prompt": "x" * 31}, "prompt", "at most 30 characters"),
        ({"prompt": "x", "sise": "32x32"}, "sise", "not permitted"),
        ({"prompt": ""}, "prompt", "at least 1 character"),
        ({"prompt": None}, "prompt", "valid string"),
        ({}, "prompt", "required"),
        ([], "", "no prompt"),
        ({"messages": [{"role": "system", "content": "x"}]}, "", "no prompt"),
        ({"messages": [{"role": "nobody", "content": "x"}]}, "", "Not a conversation"),
        (5, "prompt", "valid string"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(value: Any, place: str, said: str) -> None:
    """And with the limit, where it is one."""
    with pytest.raises(ValidationError) as caught:
        SMALL.model_validate(value)
    first = caught.value.errors()[0]
    assert ".".join(map(str, first["loc"])) == place
    assert said in first["msg"]


def test_the_limits_stand_in_the_schema() -> None:
    """So that a form can keep to them."""
    properties = SMALL.model_json_schema()["properties"]
    assert properties["n"]["anyOf"][0]["maximum"] == 2
    assert properties["num_inference_steps"]["anyOf"][0]["maximum"] == 50
    assert properties["prompt"]["maxLength"] == 30
