"""Every field of ``models.json`` is in its documentation."""

from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel

from vllm_launcher.registry.entries import RESERVED_IDS, Document

TEXT = (Path(__file__).parents[2] / "docs/models-json.md").read_text()


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """Every model a type is made of."""
    found = [inner for argument in get_args(annotation) for inner in models_in(argument)]
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        fields = annotation.model_fields.values()
        found += [annotation, *(inner for field in fields for inner in models_in(field.annotation))]
    return found


def test_every_field_is_documented() -> None:
    """In code marks, by its name."""
    fields = {
        (model.__name__, field.alias or name)
        for model in models_in(Document)
        for name, field in model.model_fields.items()
    }
    assert len(fields) > 50
    assert sorted(field for field in fields if f"`{field[1]}`" not in TEXT) == []


def test_every_reserved_id_is_documented() -> None:
    """A person learns of them before the loader tells them."""
    assert sorted(name for name in RESERVED_IDS if f"`{name}`" not in TEXT) == []
