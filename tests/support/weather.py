"""The weather application's configuration, as `config/base_config.yaml` has it."""

from pathlib import Path

from trainable.config import EvaluationConfig
from tune.config import Config

BASE_CONFIG = Path(__file__).parents[2] / "config" / "base_config.yaml"


def weather_evaluation() -> EvaluationConfig:
    """Return the evaluation section with the weather metrics and their weights."""
    return Config.assemble(BASE_CONFIG).evaluation
