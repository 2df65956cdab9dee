"""What the watcher of ``models.json`` takes for an edit of it."""

from pathlib import Path

import pytest
from watchfiles import Change

from vllm_launcher.reload import edits_of


@pytest.mark.parametrize("change", list(Change), ids=lambda change: change.name)
@pytest.mark.parametrize(
    ("name", "concerned"),
    [
        ("models.json", True),
        ("..data", True),
        ("models.json.new", False),
        ("up.log", False),
        (".models.json.swp", False),
    ],
)
def test_only_the_list_itself_and_a_swapped_volume_are_edits(change: Change, name: str, concerned: bool) -> None:  # noqa: FBT001 -- from the table
    """Whatever else happens in its folder, the launcher's own log included, is not looked at."""
    assert edits_of(Path("/srv/models.json"))(change, f"/srv/{name}") is concerned
