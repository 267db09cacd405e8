"""The search: how it is assembled, run, followed and read."""
