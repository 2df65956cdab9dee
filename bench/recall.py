"""How well passages are found: recall@5 on questions with known answers, against a running service.

    python -m bench.recall opticks --url http://127.0.0.1:8000

``opticks`` is Isaac Newton's Opticks (the edition of 1730, in the public domain): each vLLM environment has the file,
from the package apache-tvm-ffi. ``docs`` is this project's own documentation. The text is ingested into a collection of
its own, which is deleted afterwards. A question counts as answered when one of the five passages found holds the words
of its answer; searches by both halves, by meaning alone and by words alone are told side by side.
"""

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from vllm_launcher.settings import Settings

ROOT = Path(__file__).parent.parent
SETS = ("opticks", "docs")
COLLECTION = "bench-recall"
LIMIT = 5


def main() -> int:
    """Measure, print each miss, and the result; 1 if it is lower than what the docs promise."""
    parser = argparse.ArgumentParser(description="recall@5 of retrieval")
    parser.add_argument("set", choices=SETS, nargs="?", default=SETS[0])
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--key", help="an API key made with --documents, where the service asks for keys")
    asked = parser.parse_args()
    told = json.loads((Path(__file__).parent / f"recall_{asked.set}.json").read_text(encoding="utf-8"))
    texts = texts_of(told)
    questions: list[dict[str, str]] = told["questions"]
    check(texts, questions)
    headers = {"Authorization": f"Bearer {asked.key}"} if asked.key else {}
    with httpx.Client(base_url=asked.url, timeout=600, headers=headers) as client:
        try:
            ingest(client, texts)
            recall = {by: measure(client, questions, by) for by in ("both", "meaning", "words")}
        finally:
            client.delete(f"/documents/{COLLECTION}")
    return 0 if recall["both"] >= told["promised"] else 1


def texts_of(told: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the documents of a set by name."""
    if "documents" in told:
        return {name: (ROOT / name).read_bytes() for name in told["documents"]}
    text = told["text"]
    for path in sorted(Settings().engines_dir.glob(text["file"])):
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() == text["sha256"]:
            return {text["source"]: content}
    raise SystemExit(f"No vLLM environment has {text['file']}: install one (python -m vllm_launcher fetch).")


def check(texts: Mapping[str, bytes], questions: Sequence[Mapping[str, str]]) -> None:
    """End where an answer is in no text any more: nobody could find it."""
    whole = "\n".join(joined(content.decode()) for content in texts.values())
    if gone := [each["question"] for each in questions if each["answer"] not in whole]:
        raise SystemExit("\n".join(["The texts no longer hold the answers of:", *gone]))


def ingest(client: httpx.Client, texts: Mapping[str, bytes]) -> None:
    """Ingest these texts, and tell how many passages they have and how long it took."""
    started = time.monotonic()
    files = [("files", each) for each in texts.items()]
    headers = {"Accept": "text/event-stream"}
    client.post(f"/documents/{COLLECTION}", files=files, headers=headers).raise_for_status()
    listed = client.get(f"/documents/{COLLECTION}").raise_for_status().json()["documents"]
    if len(listed) != len(texts):
        raise SystemExit(f"{len(listed)} of {len(texts)} documents were ingested")
    passages = sum(each["passages"] for each in listed)
    sys.stdout.write(f"{passages} passages, ingested in {time.monotonic() - started:.0f} s\n")


def measure(client: httpx.Client, questions: Sequence[Mapping[str, str]], by: str) -> float:
    """Ask every question, and tell how many are answered."""
    started = time.monotonic()
    hits = [found(client, each, by) for each in questions]
    recall, spent = sum(hits) / len(hits), (time.monotonic() - started) / len(hits)
    sys.stdout.write(
        f"by {by}: recall@{LIMIT} {recall:.3f} ({sum(hits)} of {len(hits)} questions, {spent * 1000:.0f} ms each)\n"
    )
    for each, hit in zip(questions, hits, strict=True):
        if not hit:
            sys.stdout.write(f"  missed: {each['question']}\n")
    return recall


def found(client: httpx.Client, question: Mapping[str, str], by: str) -> bool:
    """Whether a passage with the answer is among those found."""
    body = {"query": question["question"], "limit": LIMIT, "by": by}
    passages = client.post(f"/documents/{COLLECTION}/search", json=body).raise_for_status().json()["passages"]
    return any(question["answer"] in joined(each["text"]) for each in passages)


def joined(text: str) -> str:
    """Return a text on one line."""
    return " ".join(text.split())


if __name__ == "__main__":
    sys.exit(main())
