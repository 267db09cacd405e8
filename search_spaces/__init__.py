"""What is searched: axes over configuration keys, and the spaces made of them."""

from search_spaces.space import Space, presets

__all__ = ["Space", "presets"]
