"""A metric family of your own, used to score the texts of one training run.

python examples/metric_of_your_own.py [OUTPUT_FOLDER]
"""

import sys
from collections.abc import Sequence

import loratune as lt
from trainable.evaluation.catalogue import Metric, declares


@declares(Metric("mine/brevity", "max", "share of the reference's words saved"))
def brevity(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Return how much shorter the predictions are than the references, between 0 and 1."""
    pairs = zip(predictions, references, strict=True)
    saved = [max(0.0, 1 - len(one.split()) / max(1, len(other.split()))) for one, other in pairs]
    return {"mine/brevity": sum(saved) / len(saved)}


if __name__ == "__main__":
    result = lt.train(
        train="corpus:weather@60",
        val="corpus:weather@8",
        test="corpus:weather@8",
        output_dir=sys.argv[1] if len(sys.argv) > 1 else "models/brief",
        overrides={
            "training.max_steps": 4,
            "evaluation.eval_every_steps": 4,
            "evaluation.text_rows": 4,
            "evaluation.max_new_tokens": 12,
            # Found because Python is started from the folder that holds `examples`.
            "evaluation.metrics": ["nlg", "examples.metric_of_your_own:brevity"],
            "wandb.mode": "disabled",
        },
    )
    print("test loss", round(result.test["test/loss"], 3))
    print("brevity", round(result.test["test/mine/brevity"], 3))
