"""From a registry and a machine to servers. Pure: nothing in here starts, fetches or waits.

``plan.py`` is the way in; ``planned.py`` is what comes out.
"""
