"""The models that are served now, as every protocol sees them: by name, with what answers for each.

A name is an entry's id, for its chain, or ``id:raw``, for its engine without the chain's prompt, memory and defaults.
``id:latest`` is the chain too: Ollama's clients write it.
"""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from chat_vllm import chat_prompt

from app.chains import Chain, EngineAccess, build_chain, build_conversation_model
from app.counting import CountingChat
from app.engines.line import EngineLine
from app.errors import Refused, UnknownModel, scrub
from app.guard.call import may_use
from app.streams.asking import FastChain, find_fast_way
from vllm_launcher.registry import ModelSpec, Sampling

RAW = "raw"
"""The tag of a name that means the engine itself."""
CHAIN_TAGS = ("", "latest")
CHATS = ("chat", "vision-chat")
"""Tasks whose engine holds conversations."""
NAME_SHOWN = 64
"""Characters of an unknown name that are said back."""


@dataclass(frozen=True)
class ServedModel:
    """One entry with what answers for it."""

    spec: ModelSpec
    chain: Chain | None
    """What answers a conversation; None: it holds none (embeddings)."""
    bare: Chain | None
    """Its chat model alone, without prompt and defaults; None unless its engine holds conversations."""
    counter: Chain | None
    """Like ``chain``, but counts the tokens it is given: see ``app/counting.py``."""
    line: EngineLine
    """The way to its engine for everything that is no conversation."""

    @cached_property
    def fast(self) -> FastChain | None:
        """``chain`` as the fast path asks it, where it knows it: see ``app/streams/asking.py``."""
        return find_fast_way(self.chain) if self.chain is not None else None

    @cached_property
    def fast_bare(self) -> FastChain | None:
        """As ``fast``, of ``bare``."""
        return find_fast_way(self.bare) if self.bare is not None else None


@dataclass(frozen=True)
class Choice:
    """What a request's ``model`` means."""

    served: ServedModel
    raw: bool

    @property
    def id(self) -> str:
        """The entry's id."""
        return self.served.spec.id

    @property
    def name(self) -> str:
        """The name that answers carry: the id, and its tag where it is raw."""
        return f"{self.id}:{RAW}" if self.raw else self.id

    @property
    def fast(self) -> FastChain | None:
        """What answers as the fast path asks it; None where that does not know it."""
        return self.served.fast_bare if self.raw else self.served.fast

    def answerer(self) -> Chain:
        """Return what answers its conversations.

        Raises:
            Refused: It holds none.
        """
        found = self.served.bare if self.raw else self.served.chain
        if found is None:
            raise Refused(f"'{self.name}' is a model for {self.served.spec.task}: it does not chat.", param="model")
        return found

    def require(self, *tasks: str) -> None:
        """Refuse a model that is for something else.

        Raises:
            Refused: Its task is none of these.
        """
        task = self.served.spec.task
        if task not in tasks:
            raise Refused(f"'{self.name}' is a model for {task}, not for {' or '.join(tasks)}.", param="model")


class Catalogue:
    """All served models. Replaced as a whole when the list of models changes; look names up at each request."""

    def __init__(self) -> None:
        self._models: dict[str, ServedModel] = {}

    def __repr__(self) -> str:
        return f"<Catalogue {', '.join(self._models)}>"

    def replace(self, models: Iterable[ServedModel]) -> None:
        """Serve these from now on, in this order."""
        self._models = {model.spec.id: model for model in models}

    def all(self) -> Sequence[ServedModel]:
        """Return every model that the caller may use, in the order of ``models.json``."""
        return tuple(served for model, served in self._models.items() if may_use(model))

    def get(self, model: str) -> ServedModel | None:
        """Return the model of that id."""
        return self._models.get(model)

    def choose(self, name: str) -> Choice:
        """Return what a name means.

        Raises:
            UnknownModel: Nothing.
        """
        model, _, tag = name.partition(":")
        served = self._models.get(model)
        if served is None or tag not in (*CHAIN_TAGS, RAW):
            raise unknown_model(name, tuple(filter(may_use, self._models)))
        return Choice(served, raw=tag == RAW)


def unknown_model(name: str, known: Sequence[str]) -> UnknownModel:
    """Return the error for a name that means nothing, with names that are near."""
    near = difflib.get_close_matches(name.partition(":")[0], known, n=3, cutoff=0.5) or list(known[:5])
    hint = f"There is {', '.join(near)}." if near else None
    return UnknownModel(f"There is no model '{scrub(name[:NAME_SHOWN])}'.", hint=hint, param="model")


def serve_model(spec: ModelSpec, chain: Chain | None, access: EngineAccess) -> ServedModel:
    """Return an entry as it is served.

    Args:
        spec: The entry.
        chain: The chain it names; a chat model that names none answers for itself, with its defaults.
        access: Of the engines.
    """
    if spec.task not in CHATS:
        return ServedModel(spec, chain, None, None, EngineLine.to(spec, access))
    plain = spec.model_copy(update={"sampling": Sampling()})
    return ServedModel(
        spec,
        chain=chain or _alone(build_conversation_model(spec, access)),
        bare=_alone(build_conversation_model(plain, access)),
        counter=_count(spec, access),
        line=EngineLine.to(spec, access),
    )


def _count(spec: ModelSpec, access: EngineAccess) -> Chain:
    if spec.chain is not None:
        return build_chain(spec, replace(access, memory=None), kind=CountingChat)
    return _alone(build_conversation_model(spec, access, kind=CountingChat))


def _alone(llm: Chain) -> Chain:
    """Return a chat model as a chain: it takes what chains take."""
    return chat_prompt(None) | llm
