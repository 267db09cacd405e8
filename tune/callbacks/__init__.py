"""What listens to a search: the result log, the terminal, Weights & Biases."""
