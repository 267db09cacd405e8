"""Many LoRA adapters over one frozen base: storage, the packed layer, the packed optimizer, PEFT's format."""
