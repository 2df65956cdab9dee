"""Servers kept as they are wanted: one owner of state, restarts, health.

``launcher.py`` is the way in; ``service.py`` orders what runs beside it.
"""
