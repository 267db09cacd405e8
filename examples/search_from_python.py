"""A search from Python: eight LoRA configurations on the built-in corpus, and the best adapter at work.

python examples/search_from_python.py [RESULTS_FOLDER]
"""

import sys

import loratune as lt

experiment = lt.search(
    train="corpus:weather@200",
    val="corpus:weather@40",
    space={
        "training.learning_rate": {"type": "log_uniform", "low": 1e-3, "high": 3e-2},
        "lora.r": {"type": "power_of_two", "low": 2, "high": 16},
    },
    trials=4,
    results_dir=sys.argv[1] if len(sys.argv) > 1 else "results",
    overrides={"training.max_steps": 20, "evaluation.eval_every_steps": 5, "wandb.mode": "disabled"},
    verbose=True,
)

print(experiment)
print("best parameters:", experiment.best.params)
for step, loss in experiment.leaderboard[0].curve("eval/loss"):
    print(f"  step {step}: eval/loss {loss:.3f}")

model, tokenizer = experiment.best.load()
prompt = tokenizer("Oslo Mar 24 day temp °C: 3 4 6 5\n", return_tensors="pt").to(model.device)
written = model.generate(**prompt, max_new_tokens=20, do_sample=False)
print(tokenizer.decode(written[0], skip_special_tokens=True))
