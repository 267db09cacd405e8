"""The search: how it is assembled, run, followed and read."""

__version__ = "0.1.0"
