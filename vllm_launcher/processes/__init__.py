"""Processes that leave nothing behind: spawned below a guard, recorded, swept.

``process.py`` is the way in, and the only module that spawns.
"""
