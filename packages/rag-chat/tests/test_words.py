"""Words as sparse vectors."""

from rag_chat.words import passage_vector, query_vector, words


def test_words_are_compared_without_case_accents_and_plurals() -> None:
    """And identifiers by their parts too."""
    assert words("Models, cafés and LANGSERVE_VLLM_MEMORY: policies!") == [
        "model", "cafe", "and", "langserve_vllm_memory", "langserve", "vllm", "memory", "policy",
    ]  # fmt: skip
    assert words("class bus this gas") == ["class", "bus", "this", "gas"]


def test_a_frequent_word_weighs_more_but_not_without_end() -> None:
    """As in BM25."""
    (once,) = passage_vector("river").values()
    (often,) = passage_vector("river " * 50).values()
    assert once < often < 2.2


def test_a_query_counts_each_word_once() -> None:
    """Whatever was asked twice."""
    assert query_vector("river river lake") == query_vector("lake river")
    assert query_vector("?!") == {}
