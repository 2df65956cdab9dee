"""Words as sparse vectors: the half of BM25 that a document knows by itself; the store adds how rare each word is.

A word's weight in a passage is BM25's term frequency part with k1 = 1.2 and b = 0.75, in a query it is 1 (Robertson and
Zaragoza, The Probabilistic Relevance Framework, 2009). Inverse document frequencies are the store's: Qdrant's IDF
modifier.
"""

import re
import unicodedata
import zlib
from collections import Counter

WORD = re.compile(r"\w+")
K1, B = 1.2, 0.75
USUAL_LENGTH = 100.0
"""Words of a passage on average: a constant, so that a passage's vector does not depend on the others."""

Sparse = dict[int, float]
"""Weights by word; a word is the CRC-32 of its letters."""


def words(text: str) -> list[str]:
    """Return the words of a text: lower case, without accents, identifiers also in their parts, plurals cut."""
    plain = unicodedata.normalize("NFKD", text.casefold())
    found: list[str] = []
    for word in WORD.findall("".join(character for character in plain if not unicodedata.combining(character))):
        found.append(_stem(word))
        if "_" in word:
            found.extend(_stem(part) for part in word.split("_") if part)
    return found


def _stem(word: str) -> str:
    """Cut an English plural: enough to let "models" find "model", too little to confuse other languages."""
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):  # noqa: PLR2004
        return f"{word[:-3]}y" if word.endswith("ies") else word[:-1]
    return word


def passage_vector(text: str) -> Sparse:
    """Return the weights of a passage's words."""
    counts = Counter(words(text))
    length = K1 * (1 - B + B * counts.total() / USUAL_LENGTH)
    return _by_number({word: count * (K1 + 1) / (count + length) for word, count in counts.items()})


def query_vector(text: str) -> Sparse:
    """Return the weights of a question's words."""
    return _by_number(dict.fromkeys(words(text), 1.0))


def _by_number(weights: dict[str, float]) -> Sparse:
    numbered: Sparse = {}
    for word, weight in weights.items():
        number = zlib.crc32(word.encode())
        numbered[number] = numbered.get(number, 0.0) + weight
    return numbered
