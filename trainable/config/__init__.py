"""What one trial is configured by, and how a configuration is put together from its layers."""

from trainable.config.layers import (
    Layer,
    assemble,
    dotted_keys,
    environment_layer,
    file_layers,
    flag_layer,
    mapping_layer,
)
from trainable.config.sections import (
    CORPUS_PREFIX,
    HUB_PREFIX,
    DataConfig,
    DataFiles,
    EngineConfig,
    EvaluationConfig,
    LoraConfig,
    ModelConfig,
    Section,
    TrainingConfig,
    TrialConfig,
    WandbConfig,
)

__all__ = [
    "CORPUS_PREFIX",
    "HUB_PREFIX",
    "DataConfig",
    "DataFiles",
    "EngineConfig",
    "EvaluationConfig",
    "Layer",
    "LoraConfig",
    "ModelConfig",
    "Section",
    "TrainingConfig",
    "TrialConfig",
    "WandbConfig",
    "assemble",
    "dotted_keys",
    "environment_layer",
    "file_layers",
    "flag_layer",
    "mapping_layer",
]
