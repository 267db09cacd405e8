"""Rows in, tokens out: data files, tokenised once, and the corpora of the shipped application."""

from trainable.data.corpora.weather import write_weather
from trainable.data.corpora.weathergov import write_weathergov
from trainable.data.examples import Example, read_examples
from trainable.data.tokens import PreparedData, TokenTable, prepare

__all__ = [
    "Example",
    "PreparedData",
    "TokenTable",
    "prepare",
    "read_examples",
    "write_weather",
    "write_weathergov",
]
