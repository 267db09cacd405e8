"""W&B for a Ray Tune search of your own: one run per trial in one group, whatever the configuration is.

python examples/wandb_in_your_own_search.py [FOLDER]
"""

import sys
from pathlib import Path
from typing import Any

import ray
from ray import tune as ray_tune

from tune.callbacks.wandb import WandbLoggerCallback


def train(config: dict[str, Any]) -> None:
    """Approach the minimum of a parabola."""
    x = config["start"]
    for _ in range(5):
        x -= config["rate"] * 2 * (x - 3)
        ray_tune.report({"distance": (x - 3) ** 2})


if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "results").absolute()
    wandb = WandbLoggerCallback.for_any_search(
        "parabola", metric="distance", mode="min", directory=folder, project="my-search"
    )
    ray.init(num_cpus=2, include_dashboard=False)
    results = ray_tune.Tuner(
        train,
        param_space={"start": 0.0, "rate": ray_tune.grid_search([0.05, 0.2])},
        run_config=ray_tune.RunConfig(
            name="parabola", storage_path=str(folder), callbacks=[wandb], verbose=0
        ),
    ).fit()
    best = results.get_best_result("distance", "min")
    print("best rate", best.config["rate"])
    print("W&B runs", len(list(folder.glob("wandb/offline-run-*"))))
