"""Where a search runs: the Ray session and the shares of its devices."""
