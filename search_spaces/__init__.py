"""What is searched: axes over configuration keys, and the spaces made of them."""
