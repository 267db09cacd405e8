"""A Gaussian process over all trials, stopped ones included: the sampler `gp`, and what is left to gain.

For the sampler, trials are ordered by their value, which for stopped ones is an estimate
(`tune.search.sampling_view`); those that are infeasible come last. The order is turned into normal scores, so
that one enormous loss weighs no more than a bad one. The process has a Matérn 5/2 kernel with a length for
each axis; lengths, scale and noise are the most probable ones under wide priors. Trials that have not
reported are believed to reach their predicted mean, which keeps the trials of a batch apart. The next trial
is the candidate with the largest expected improvement on the best mean so far.

Fitting takes the third power of the number of trials, so no more than `MOST` are looked at: the best half of
that number, and an even selection of the others.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.search_space import IntersectionSearchSpace
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState

MOST = 200
"""Trials that the process is fitted to."""
FEWEST = 20
"""Trials with a value, by estimates or really, before the process can say what is left to gain."""
_CANDIDATES = 512
"""Random candidates; around the best trials there are `_AROUND * len(_SPREADS)` each more."""
_BEST, _AROUND, _SPREADS = 5, 12, (0.2, 0.05, 0.02)
_ANEW = 0.3
"""Share of the axes of a candidate near a good trial that are drawn anew where an axis is whole-numbered."""
_LENGTH, _SCALE, _NOISE = (0.5, 0.8), (1.0, 0.5), (0.1, 1.0)
"""Priors: the median, and the standard deviation of the logarithm."""
_BELIEVED = 0.05
"""The noise of a running trial's believed value. Much less, and a batch goes to the corners of the space."""

Params = Mapping[str, Any]


class RankGaussianProcessSampler(BaseSampler):
    """Suggests where the expected improvement is largest."""

    def __init__(self, startup_trials: int, seed: int) -> None:
        """Draw at random until `startup_trials` trials have ended."""
        self._startup = startup_trials
        self._random = np.random.default_rng(seed)
        self._independent = RandomSampler(seed=seed)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Return the axes that all trials have."""
        return _common_axes(study)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the next point; nothing while there are too few trials."""
        ended = study.get_trials(deepcopy=False, states=(OptunaState.COMPLETE,))
        if not search_space or len(ended) < self._startup:
            return {}
        sign = 1.0 if study.direction is optuna.study.StudyDirection.MINIMIZE else -1.0
        keys = {one.number: _order(one, sign) for one in ended}
        ordered = _selected(sorted(ended, key=lambda one: keys[one.number]))
        axes = _Axes(search_space)
        scores = _normal_scores([keys[one.number] for one in ordered])
        process = _Process.fitted(axes.encode([one.params for one in ordered]), scores)
        best = float(process.predict(process.x_ND)[0].min())
        running = study.get_trials(deepcopy=False, states=(OptunaState.RUNNING,))
        placed = [one.params for one in running if search_space.keys() <= one.params.keys()]
        if placed:
            process = process.believing(axes.encode(placed))
        tried = {_point(one.params, search_space) for one in ended}
        candidates = [
            one
            for one in axes.candidates(self._random, [one.params for one in ordered[:_BEST]])
            if _point(one, search_space) not in tried
        ]
        if not candidates:
            return {}
        gain = process.expected_improvement(axes.encode(candidates), best)
        return dict(candidates[int(gain.argmax())])

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Draw an axis at random."""
        return self._independent.sample_independent(study, trial, param_name, param_distribution)


def _common_axes(study: optuna.Study) -> dict[str, BaseDistribution]:
    """Return the axes that all trials have."""
    found = IntersectionSearchSpace().calculate(study)
    return {name: one for name, one in found.items() if not one.single()}


def _point(params: Params, space: Params) -> tuple[Any, ...]:
    return tuple(params.get(name) for name in space)


def _order(trial: FrozenTrial, sign: float) -> tuple[bool, float]:
    """Return a key that sorts better trials first; equal ones are equally good."""
    if any(value > 0 for value in trial.constraints.values()):
        return True, 0.0
    assert trial.value is not None
    return False, sign * trial.value


def _selected(ordered: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Return at most `MOST` trials: the best half of that number, and every n-th of the others."""
    if len(ordered) <= MOST:
        return list(ordered)
    best, others = ordered[: MOST // 2], ordered[MOST // 2 :]
    places = np.linspace(0, len(others) - 1, MOST - len(best)).astype(int)
    return [*best, *(others[place] for place in places)]


def _normal_scores(keys: Sequence[tuple[bool, float]]) -> np.ndarray:
    """Return the normal quantiles of the ranks of sorted keys; equal keys share the mean of their ranks."""
    from scipy.special import ndtri

    ranks = np.arange(len(keys)) + 0.5
    begin = 0
    for place in range(1, len(keys) + 1):
        if place == len(keys) or keys[place] != keys[begin]:
            ranks[begin:place] = ranks[begin:place].mean()
            begin = place
    return ndtri(ranks / len(keys))


def improvement_left(study: optuna.Study) -> float | None:
    """Return by how much the next trial is expected to improve on the best one; `None`: too little is known.

    Unlike the sampler's, this process models the values themselves: the answer is in units of the objective.

    Args:
        study: with one objective; an infeasible trial has the worst value.
    """
    ended = study.get_trials(deepcopy=False, states=(OptunaState.COMPLETE,))
    space = _common_axes(study)
    if len(ended) < FEWEST or not space:
        return None
    sign = 1.0 if study.direction is optuna.study.StudyDirection.MINIMIZE else -1.0
    ordered = _selected(sorted(ended, key=lambda one: _order(one, sign)))
    costs_N = np.array([sign * one.values[0] for one in ordered])
    spread = float(costs_N.std())
    if spread == 0:
        return 0.0
    axes = _Axes(space)
    x_ND = axes.encode([one.params for one in ordered])
    process = _Process.fitted(x_ND, (costs_N - costs_N.mean()) / spread)
    best = float(process.predict(x_ND)[0].min())
    tried = {_point(one.params, space) for one in ended}
    near = [one.params for one in ordered[:_BEST]]
    candidates = axes.candidates(np.random.default_rng(len(ended)), near)
    untried = [one for one in candidates if _point(one, space) not in tried]
    if not untried:
        return 0.0
    return spread * float(process.expected_improvement(axes.encode(untried), best).max())


class _Axes:
    """Points of a space as rows of numbers: [0, 1] on each axis, a choice as one number for each value."""

    def __init__(self, space: Mapping[str, BaseDistribution]) -> None:
        self._space = space

    def encode(self, points: Sequence[Params]) -> np.ndarray:
        """Return one row for each point."""
        return np.array([[part for name in self._space for part in self._parts(name, one)] for one in points])

    def candidates(self, random: np.random.Generator, best: Sequence[Params]) -> list[dict[str, Any]]:
        """Return random points, and points near the best ones."""
        near = [(one, spread) for one in best for spread in _SPREADS for _ in range(_AROUND)]
        return [
            *({name: self._drawn(name, random) for name in self._space} for _ in range(_CANDIDATES)),
            *({name: self._near(name, one, spread, random) for name in self._space} for one, spread in near),
        ]

    def _parts(self, name: str, point: Params) -> list[float]:
        distribution, value = self._space[name], point[name]
        if isinstance(distribution, CategoricalDistribution):
            # Two different choices are half as far apart as the ends of a range.
            return [0.35 * (choice == value) for choice in distribution.choices]
        return [self._share(name, value)]

    def _drawn(self, name: str, random: np.random.Generator) -> Any:
        distribution = self._space[name]
        if isinstance(distribution, CategoricalDistribution):
            return distribution.choices[random.integers(len(distribution.choices))]
        return self._value(name, random.random())

    def _near(self, name: str, point: Params, spread: float, random: np.random.Generator) -> Any:
        distribution = self._space[name]
        coarse = not isinstance(distribution, FloatDistribution) or distribution.step is not None
        if coarse and random.random() < _ANEW:
            return self._drawn(name, random)
        if isinstance(distribution, CategoricalDistribution):
            return point[name]
        share = self._share(name, point[name]) + spread * random.standard_normal()
        return self._value(name, min(1.0, max(0.0, share)))

    def _ends(self, name: str) -> tuple[float, float, bool]:
        distribution = self._space[name]
        assert isinstance(distribution, FloatDistribution | IntDistribution)
        if distribution.log:
            return math.log(distribution.low), math.log(distribution.high), True
        return distribution.low, distribution.high, False

    def _share(self, name: str, value: float) -> float:
        low, high, log = self._ends(name)
        return ((math.log(value) if log else value) - low) / (high - low)

    def _value(self, name: str, share: float) -> Any:
        low, high, log = self._ends(name)
        value = low + share * (high - low)
        value = math.exp(value) if log else value
        distribution = self._space[name]
        assert isinstance(distribution, FloatDistribution | IntDistribution)
        if distribution.step is not None:
            value = distribution.low + distribution.step * round(
                (value - distribution.low) / distribution.step
            )
        value = min(distribution.high, max(distribution.low, value))
        return int(value) if isinstance(distribution, IntDistribution) else value


@dataclass(frozen=True)
class _Process:
    """A Gaussian process with zero mean. N trials, D numbers each.

    Attributes:
        x_ND, y_N: what it is fitted to.
        length_D, scale, noise: of the kernel, and the variance of a score around the process.
        lower_NN: the Cholesky factor of the covariance.
        weights_N: the inverse covariance times the scores.
    """

    x_ND: np.ndarray
    y_N: np.ndarray
    length_D: np.ndarray
    scale: float
    noise_N: np.ndarray
    lower_NN: np.ndarray
    weights_N: np.ndarray

    @classmethod
    def fitted(cls, x_ND: np.ndarray, y_N: np.ndarray) -> "_Process":
        """Return the process with the most probable lengths, scale and noise."""
        from scipy.optimize import minimize

        width = x_ND.shape[1]
        priors = np.array([_LENGTH] * width + [_SCALE, _NOISE])
        middle_P, spread_P = np.log(priors[:, 0]), priors[:, 1]
        gaps_NND = (x_ND[:, None] - x_ND[None]) ** 2

        def loss(log_P: np.ndarray) -> tuple[float, np.ndarray]:
            off_P = (log_P - middle_P) / spread_P
            value, slope_P = _negative_log_likelihood(log_P, gaps_NND, y_N)
            return value + 0.5 * off_P @ off_P, slope_P + off_P / spread_P

        found = minimize(
            loss,
            middle_P,
            jac=True,
            method="L-BFGS-B",
            bounds=[(-4, 2.5)] * width + [(-2, 2), (-7, 0.5)],
            options={"maxiter": 40},
        )
        values_P = np.exp(found.x)
        noise_N = np.full(len(y_N), values_P[-1])
        return cls._solved(x_ND, y_N, values_P[:width], float(values_P[-2]), noise_N)

    @classmethod
    def _solved(
        cls, x_ND: np.ndarray, y_N: np.ndarray, length_D: np.ndarray, scale: float, noise_N: np.ndarray
    ) -> "_Process":
        from scipy.linalg import cho_solve

        covariance_NN = scale * _matern(x_ND, x_ND, length_D) + np.diag(noise_N + 1e-6)
        lower_NN = np.linalg.cholesky(covariance_NN)
        return cls(x_ND, y_N, length_D, scale, noise_N, lower_NN, cho_solve((lower_NN, True), y_N))

    def believing(self, x_RD: np.ndarray) -> "_Process":
        """Return the process with further points that have the values it predicts for them."""
        return self._solved(
            np.vstack([self.x_ND, x_RD]),
            np.concatenate([self.y_N, self.predict(x_RD)[0]]),
            self.length_D,
            self.scale,
            np.concatenate([self.noise_N, np.full(len(x_RD), _BELIEVED)]),
        )

    def predict(self, x_CD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean and the standard deviation at each point."""
        from scipy.linalg import solve_triangular

        cross_CN = self.scale * _matern(x_CD, self.x_ND, self.length_D)
        explained_NC = solve_triangular(self.lower_NN, cross_CN.T, lower=True)
        variance_C = np.maximum(self.scale - (explained_NC**2).sum(axis=0), 1e-9)
        return cross_CN @ self.weights_N, np.sqrt(variance_C)

    def expected_improvement(self, x_CD: np.ndarray, best: float) -> np.ndarray:
        """Return by how much each point is expected to fall below `best` (Jones et al., 1998, eq. 15)."""
        from scipy.special import ndtr

        mean_C, deviation_C = self.predict(x_CD)
        z_C = (best - mean_C) / deviation_C
        density_C = np.exp(-0.5 * z_C**2) / math.sqrt(2 * math.pi)
        return deviation_C * (z_C * ndtr(z_C) + density_C)


def _matern(x_AD: np.ndarray, x_BD: np.ndarray, length_D: np.ndarray) -> np.ndarray:
    squares_AB = (((x_AD[:, None] - x_BD[None]) / length_D) ** 2).sum(axis=-1)
    distance_AB = np.sqrt(5 * squares_AB)
    return (1 + distance_AB + distance_AB**2 / 3) * np.exp(-distance_AB)


def _negative_log_likelihood(
    log_P: np.ndarray, gaps_NND: np.ndarray, y_N: np.ndarray
) -> tuple[float, np.ndarray]:
    """Return the value and its slope (Rasmussen and Williams, 2006, eq. 5.8 and 5.9).

    Args:
        log_P: logarithms of the lengths, the scale and the noise.
        gaps_NND: squared differences of the points on each axis.
        y_N: the scores.
    """
    from scipy.linalg import cho_solve

    *_, scale, noise = np.exp(log_P)
    inverse_D = np.exp(-2 * log_P[:-2])
    distance_NN = np.sqrt(5 * (gaps_NND @ inverse_D))
    decay_NN = np.exp(-distance_NN)
    kernel_NN = (1 + distance_NN + distance_NN**2 / 3) * decay_NN
    count = len(y_N)
    lower_NN = np.linalg.cholesky(scale * kernel_NN + (noise + 1e-6) * np.eye(count))
    inverse_NN = cho_solve((lower_NN, True), np.eye(count))
    weights_N = inverse_NN @ y_N
    value = 0.5 * y_N @ weights_N + np.log(np.diag(lower_NN)).sum()
    outer_NN = 0.5 * (inverse_NN - np.outer(weights_N, weights_N))
    along_NN = outer_NN * (scale * 5 / 3 * (1 + distance_NN) * decay_NN)
    slope_D = np.einsum("ij,ijd->d", along_NN, gaps_NND) * inverse_D
    of_scale, of_noise = (outer_NN * kernel_NN).sum() * scale, np.trace(outer_NN) * noise
    return float(value), np.concatenate([slope_D, [of_scale, of_noise]])
