"""The experiment on disk: names and places, the study, the lock."""
