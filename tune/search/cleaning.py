"""Frees the disk of checkpoints that nobody needs any more: a plan that changes nothing, and its execution.

Kept are the checkpoints that a resumed search or a reader still uses:

- every checkpoint of the best trials, as many as are asked for, and at least of the one that `best/` is from;
- those of a trial that has not ended, which resumes from its newest one;
- a checkpoint that another trial that has not ended begins from;
- those that wait for their upload to W&B.

Result logs, predictions, the study and `best/` are never touched, so every figure can still be read. What is
lost is the adapters of the other trials, and resuming these trials with more steps.
"""

from dataclasses import dataclass

from trainable.places import Place
from tune.store.experiment import ExperimentStore
from tune.store.reader import ExperimentData


@dataclass(frozen=True)
class Removal:
    """One checkpoint that can be removed.

    Attributes:
        trial: the number of its trial.
        checkpoint: its folder.
        size: bytes.
    """

    trial: int
    checkpoint: Place
    size: int


@dataclass(frozen=True)
class Cleaning:
    """What cleaning removes.

    Attributes:
        removals: by trial.
        kept: checkpoints that stay.
    """

    removals: list[Removal]
    kept: int

    @property
    def size(self) -> int:
        """Bytes that are freed."""
        return sum(removal.size for removal in self.removals)

    def carry_out(self, store: ExperimentStore) -> None:
        """Remove the checkpoints; the caller holds the experiment's lock."""
        for removal in self.removals:
            store.delete_checkpoint(removal.checkpoint)


def plan_cleaning(data: ExperimentData, keep_top: int) -> Cleaning:
    """Decide which checkpoints can be removed.

    Args:
        data: the experiment.
        keep_top: trials, best first, that keep their checkpoints, besides those on the Pareto front.
    """
    best = data.best_checkpoint()
    scored = [trial for trial in data.leaderboard() if trial.best_metrics]
    keeping = {trial.trial_id for trial in scored[:keep_top]}
    keeping |= {best[0].trial_id} if best else set()
    if data.config.search.other_objectives:
        keeping |= {trial.trial_id for trial in data.pareto_front()}
    keeping |= {str(trial.trial_id) for trial in data.study_trials if not trial.state.is_terminal}
    needed = {
        data.store.checkpoint(trial.begins_from)
        for trial in data.study_trials
        if trial.begins_from is not None and not trial.state.is_terminal
    }
    wandb = data.config.wandb
    is_uploaded = wandb.mode != "disabled" and wandb.log_artifacts and wandb.log_model is not False
    removals, kept = [], 0
    for trial in data.trials:
        unsettled = is_uploaded and not data.store.settled_marker(trial.trial_id).exists()
        for checkpoint in data.store.trial(trial.trial_id).checkpoints():
            if trial.trial_id in keeping or checkpoint in needed or unsettled:
                kept += 1
            else:
                removals.append(Removal(trial.number, checkpoint, data.store.checkpoint_size(checkpoint)))
    return Cleaning(removals, kept)
