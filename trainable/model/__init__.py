"""The frozen base model that adapters are trained over."""

from trainable.model.base import BaseModel, load_base, load_tokenizer, pick_device, resolve

__all__ = ["BaseModel", "load_base", "load_tokenizer", "pick_device", "resolve"]
