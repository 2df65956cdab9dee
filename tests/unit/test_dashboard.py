"""The Grafana dashboard asks for measures that exist, with labels that they have."""

import json
import re
from pathlib import Path

import pytest

from app.engines.table import ServerTable
from app.guard.admission import Admission
from app.guard.call import Call
from app.telemetry.metrics import Metrics

DASHBOARD = json.loads((Path(__file__).parents[2] / "deploy" / "grafana-dashboard.json").read_text())
QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
OWN = re.compile(r"langserve_vllm_\w+")


@pytest.fixture(scope="module")
def names() -> set[str]:
    """Every series that the app tells after one request."""
    table = ServerTable(None, ("tiny",))
    admission = Admission(lambda _: 1, longest=1, patience=1)
    metrics = Metrics(lambda: table.models)
    metrics.watch(table, admission)
    call = Call("r1", "openai", "POST /", model="tiny", first=1.0, finish="stop")
    metrics.queued("tiny", 0.1)
    bound = metrics.begin(call)
    bound.end((1, 2))
    bound.end_stream(0.1, 0.2, 2)
    metrics.ended(call, "error", 1.0)
    text = metrics.text().decode()
    return set(re.findall(r"^(?:# TYPE )?(langserve_vllm_\w+)", text, re.MULTILINE))


@pytest.mark.parametrize("query", QUERIES)
def test_every_panel_asks_for_measures_that_exist(names: set[str], query: str) -> None:
    """Ours by name; the engines' begin with ``vllm:``."""
    asked = set(OWN.findall(query))
    assert asked or "vllm:" in query
    assert asked <= names


def test_every_measure_of_ours_is_on_the_dashboard(names: set[str]) -> None:
    """But for what histograms are made of."""
    families = {re.sub(r"_(bucket|count|sum)$", "", name) for name in names if not name.endswith("_created")}
    shown = {re.sub(r"_(bucket|count|sum)$", "", name) for query in QUERIES for name in OWN.findall(query)}
    assert families == shown
