"""Corpora that the data files can be made from: the built-in weather corpus, and WeatherGov."""
