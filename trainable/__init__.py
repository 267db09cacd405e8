"""One trial: its configuration, data, base model, packed LoRA engine, evaluation and checkpoints."""
