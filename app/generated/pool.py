"""The pool of our own protocol descriptions: the generated modules ask it in place of protobuf's default pool.

protobuf knows one description of a name in a pool. ``inference`` is described by every client of its protocol too, and
a chain may use one.
"""

from google.protobuf import descriptor_pool

POOL = descriptor_pool.DescriptorPool()


def Default() -> descriptor_pool.DescriptorPool:  # noqa: N802 -- the name that generated code asks for
    """Return our pool."""
    return POOL
