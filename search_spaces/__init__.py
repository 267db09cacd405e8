"""What is searched: axes over configuration keys, and the spaces made of them."""

from search_spaces.reading import presets
from search_spaces.space import Space

__all__ = ["Space", "presets"]
