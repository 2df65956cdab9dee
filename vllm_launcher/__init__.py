"""From ``models.json`` to ready model servers.

The way of one model: registry -> plan -> weights -> command -> process -> health -> ready.
Nothing in here imports the app, LangServe or vLLM: the launcher starts them as processes.
"""

__version__ = "0.1.0"
