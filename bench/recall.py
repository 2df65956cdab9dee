"""How well documents are found: recall@5 on questions with known answers, against a running service.

    python -m bench.recall --url http://127.0.0.1:8000

The project's own docs are ingested into a collection of their own; a question counts as answered when one of the five
passages found holds the words of its answer. The collection is deleted afterwards.
"""

import argparse
import json
import sys
from pathlib import Path

import httpx

ROOT = Path(__file__).parent.parent
QUESTIONS = Path(__file__).parent / "recall.json"
COLLECTION = "bench-recall"
LIMIT = 5


def main() -> int:
    """Measure, print each miss, and the result; 1 if it is lower than what the docs promise."""
    parser = argparse.ArgumentParser(description="recall@5 of retrieval")
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    asked = parser.parse_args()
    told = json.loads(QUESTIONS.read_text(encoding="utf-8"))
    with httpx.Client(base_url=asked.url, timeout=600) as client:
        passages = ingest(client, told["documents"])
        try:
            hits = [found(client, each) for each in told["questions"]]
        finally:
            client.delete(f"/documents/{COLLECTION}").raise_for_status()
    for each, hit in zip(told["questions"], hits, strict=True):
        if not hit:
            sys.stdout.write(f"missed: {each['question']}\n")
    recall = sum(hits) / len(hits)
    sys.stdout.write(f"recall@{LIMIT}: {recall:.3f} ({sum(hits)} of {len(hits)} questions, {passages} passages)\n")
    return 0 if recall >= told["promised"] else 1


def ingest(client: httpx.Client, documents: list[str]) -> int:
    """Ingest these files; how many passages they have."""
    files = [("files", (name, (ROOT / name).read_bytes())) for name in documents]
    headers = {"Accept": "text/event-stream"}
    client.post(f"/documents/{COLLECTION}", files=files, headers=headers).raise_for_status()
    listed = client.get(f"/documents/{COLLECTION}").raise_for_status().json()["documents"]
    if len(listed) != len(documents):
        raise SystemExit(f"{len(listed)} of {len(documents)} documents were ingested")
    return sum(each["passages"] for each in listed)


def found(client: httpx.Client, question: dict[str, str]) -> bool:
    """Whether a passage with the answer is among those found."""
    body = {"query": question["question"], "limit": LIMIT}
    passages = client.post(f"/documents/{COLLECTION}/search", json=body).raise_for_status().json()["passages"]
    return any(question["answer"] in " ".join(each["text"].split()) for each in passages)


if __name__ == "__main__":
    sys.exit(main())
