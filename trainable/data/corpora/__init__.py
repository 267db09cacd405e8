"""Corpora that the shipped application can be tried on."""
