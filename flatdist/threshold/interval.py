"""n50 of one group of runs and its interval: the one way in which searches, tables and figures state it.

The estimate comes from the most likely curve of the link that the runs favour; the interval averages over links and
lapse rates by their posterior weights (:mod:`flatdist.threshold.posterior`), since the uncertainty about the shape is
what the intervals of a single model leave out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from statistics import NormalDist

import numpy as np

from flatdist.threshold.curves import LINKS, Observations, Runs, crossing, probabilities, rise
from flatdist.threshold.posterior import FINE, LINK_WEIGHTS, log_measurements, posterior, width_limits, width_range

REACH = 1.0  # how far beyond the measured log n centers are considered, in units of their range
POOR_FIT = 0.02  # a goodness-of-fit p below it is said in words
WIDENED = 0.1  # and one below it widens the interval
CLEARLY = 10.0  # evidence against the logistic curve from which on another is shown
UNRESOLVED = 0.3  # of the distance between two n: narrower transitions cannot be told from sharp ones
BOOTSTRAPS = 199
PLATEAUS = np.array([0.52, 0.56, 0.6, 0.66, 0.73, 0.8, 0.87, 0.94, 0.98])  # lapse rates that deny an n50


@dataclass(frozen=True)
class Interval:
    """n50, the number of measurements at which the success probability crosses one half, and the curve around it.

    ``censored`` is ``none``; ``interval`` (all fail up to one n and all succeed from the next: n50 lies between them,
    and the estimate is their geometric middle); ``left`` (n50 is below the smallest n); ``right`` (above the largest);
    or ``unresolved`` (there is no n50).
    """

    n50: float  # NaN where censored left, right or unresolved
    low: float  # limits; 0 or infinite where the runs do not bound n50
    high: float
    censored: str
    reason: str = ""  # why n50 is unresolved, or what else to know of it, in words
    link: str = "logit"  # of the likeliest curve
    scale: float = math.nan  # of log n on that curve
    lapse: float = math.nan  # share of failures at large n; 0 where the runs do not speak for lapses
    lapse_evidence: float = math.nan  # posterior probability that there are lapses, 1/2 before any run
    width: float = math.nan  # from 10 to 90 % of the curve's rise, in measurements
    width_low: float = math.nan
    width_high: float = math.nan
    fit_p: float = math.nan  # p-value of the curve's fit, by parametric bootstrap; NaN where it was not computed
    other: float = math.nan  # n50 under the next likeliest link

    @property
    def half_width(self) -> float:
        """Half of the interval's width on log n, about the relative error of n50; infinite where it is unbounded."""
        return 0.5 * math.log(self.high / self.low) if self.low > 0 and math.isfinite(self.high) else math.inf


@lru_cache(maxsize=4096)  # tolerances and tables ask for the same counts again and again
def interval(runs: Runs, *, level: float = 0.95, link: str = "auto", details: bool = False) -> Interval:
    """n50 of a group with its interval.

    Args:
        runs: of one group.
        level: of the interval.
        link: ``auto`` averages over all of them by evidence; one of :data:`LINKS` fixes it.
        details: whether the width's limits, the goodness of fit and the other link's n50 are wanted too.
    """
    values, won, lost = runs.counts()
    if len(values) == 0:
        return Interval(math.nan, 0.0, math.inf, "unresolved", "there are no runs")
    if len(values) == 1:
        return _one_value(float(values[0]), won[0], lost[0], level)
    seen = runs.observations()
    if seen.one_sided:
        return _one_sided(seen, level)
    trials = runs.bounds() is None
    fit = Fit(seen, LINKS if link == "auto" else (link,), level)
    if trials and runs.replicate is not None:
        return Fit(seen, fit.links, level, clustering(runs, fit, level)).report(details, trials=False)
    return fit.report(details, trials=trials)


def _one_value(n: float, won: float, lost: float, level: float) -> Interval:
    """A single n shows at most on which side of it n50 lies."""
    from scipy import special

    # Likelihood of the observed share against one half, the only thing that n50 = n would predict.
    if sum(special.xlogy(part, 2.0 * part / (won + lost)) for part in (won, lost)) <= _drop(level):
        reason = "one value of n cannot show on which side of it success crosses one half"
        return Interval(math.nan, 0.0, math.inf, "unresolved", reason)
    low, high, censored = (0.0, n, "left") if won > lost else (n, math.inf, "right")
    return Interval(math.nan, low, high, censored, "one value of n was measured")


def _one_sided(seen: Observations, level: float) -> Interval:
    """All succeed or all fail: an n50 on the wrong side of an outcome gives it a chance of one half at best."""
    if seen.won.any():
        allowed = np.flatnonzero(np.cumsum(seen.won) * math.log(2.0) <= _drop(level))
        first = int(allowed[-1]) + 1 if len(allowed) else 0
        high = math.exp(seen.values[first]) if first < len(seen.values) else math.inf
        return Interval(math.nan, 0.0, high, "left", "every run succeeds")
    allowed = np.flatnonzero(np.cumsum(seen.lost[::-1])[::-1] * math.log(2.0) <= _drop(level))
    last = (int(allowed[0]) if len(allowed) else len(seen.values)) - 1
    return Interval(math.nan, math.exp(seen.values[last]) if last >= 0 else 0.0, math.inf, "right", "no run succeeds")


def _drop(level: float) -> float:
    """How far below its maximum a profile log-likelihood may fall within an interval."""
    return 0.5 * NormalDist().inv_cdf(0.5 + 0.5 * level) ** 2


class Fit:
    """Curves of some links fitted to one group's observations: two values of n or more, and both outcomes.

    ``dispersion`` is that of the observations, relative to independent ones. n50 is estimated with the ``chosen`` link,
    with lapses or not, of greatest evidence. The curve that is ``shown``, whose width is reported, is logistic unless
    the runs clearly differ.
    """

    def __init__(
        self, observations: Observations, links: tuple[str, ...], level: float, dispersion: float = 1.0
    ) -> None:
        self.observations, self.links, self.level, self.dispersion = observations, links, level, dispersion
        self.drop, self.values = _drop(level), observations.values
        first, last = float(self.values[0]), float(self.values[-1])
        self.ends = (first - REACH * (last - first), last + REACH * (last - first))
        self.widths = width_range(self.values)
        self.posterior = posterior(observations, self.ends, self.widths, links=links, dispersion=dispersion)
        shares = self.posterior.weight.sum(axis=(2, 3))  # (k, l)
        weights = np.array([LINK_WEIGHTS[link] for link in links])
        kinds = np.stack((shares[:, 0], shares[:, 1:].sum(axis=1)), axis=1) / weights[:, None]  # evidence, links alike
        best, lapses = np.unravel_index(int(kinds.argmax()), kinds.shape)
        self.chosen = links[best], bool(lapses)
        evidence = kinds.sum(axis=1)
        plain, best = links.index("logit") if "logit" in links else 0, evidence.argmax()
        drawn = int(best) if evidence[best] > CLEARLY * evidence[plain] else plain
        self.shown = links[drawn], bool(kinds[drawn, 1] > kinds[drawn, 0])
        self.curve = self.likeliest(*self.shown)  # center, width and lapse rate
        center, width, lapse = self.curve if self.shown == self.chosen else self.likeliest(*self.chosen)
        self.middle = center + width / rise(self.chosen[0]) * crossing(self.chosen[0], min(lapse, 0.499))
        place = int(np.searchsorted(self.values, self.middle))
        inside = 0 < place < len(self.values)  # is the transition narrower than the measured n resolve?
        self.sharp = inside and bool(width < UNRESOLVED * (self.values[place] - self.values[place - 1]))
        if self.sharp:  # the likelihood is flat between the two n
            self.middle = float(self.posterior.quantiles((0.5,))[0])

    def likeliest(self, link: str, lapses: bool) -> tuple[float, float, float]:
        """Center, width and lapse rate of greatest likelihood, from the best curve of the grid."""
        found = self.posterior
        heights = found.heights[self.links.index(link)]
        start = np.unravel_index(int((heights if lapses else heights[:1]).argmax()), heights.shape)
        at = np.array([found.center[start[2]], math.log(found.width[start[1]]), found.lapses[start[0]]])
        reach = np.array([found.center[1] - found.center[0], math.log(found.width[1] / found.width[0]), 0.12])
        pattern, size, best = np.linspace(-1.0, 1.0, 5)[:, None], 1.0, -math.inf
        for _ in range(30):  # patterns of curves around the best so far, ever smaller
            centers, widths, rates = (at + size * reach * pattern).T
            rates = np.unique(np.clip(rates, 0.0, FINE.lapses[-1])) if lapses else np.zeros(1)
            near = self.observations.heights(link, centers, np.exp(widths)[:, None] / rise(link), rates)
            rate, row, column = np.unravel_index(int(near.argmax()), near.shape)
            moved = {row, column} - {1, 2, 3} and near[rate, row, column] > best + 1e-6
            if near[rate, row, column] > best + 1e-9:
                at, best = np.array([centers[column], widths[row], rates[rate]]), float(near[rate, row, column])
            if not moved:
                size *= 0.4
            if size < 1e-3:
                break
        return float(at[0]), math.exp(at[1]), float(at[2])

    def report(self, details: bool, *, trials: bool) -> Interval:
        """Everything in one row; with trials the observations are independent ones, each at one n."""
        fall = _fall(self.observations) if trials else None
        found = self._crossing(fall)
        if found.censored not in ("none", "interval") or not details:
            return found
        low, high = width_limits(self.posterior, self.curve[2], self.middle, self.level)
        if found.width < math.inf:  # False where n50 is only known to lie in a gap
            low, high = min(low, found.width), max(high, found.width)
        p_value, excess = self._goodness(trials)
        found = replace(found, width_low=low, width_high=high, other=self._other(), fit_p=p_value)
        if p_value < WIDENED and self.dispersion == 1.0:
            wider = Fit(self.observations, self.links, self.level, excess)._crossing(fall)
            if wider.censored == "none":
                found = replace(found, low=min(found.low, wider.low), high=max(found.high, wider.high))
        return found

    def _crossing(self, fall: tuple[float, bool] | None) -> Interval:
        """n50 with its limits, or why there is none."""
        found, middle = self.posterior, self.middle
        best = float(found.heights.max())
        open_low, open_high = (edge >= best - self.drop for edge in found.edges)
        level_off, plateau = self._plateau()
        may_level_off = level_off >= best - self.drop
        reason = ""
        if fall is not None and fall[1]:
            reason = f"success falls below one half again at n = {fall[0]:g}"
        elif level_off > best and level_off - found.edges[1] > self.drop and not open_low:
            reason = f"success levels off at {plateau:.2f}, below one half"
        elif open_low and (open_high or may_level_off):
            reason = "the runs do not show that success rises with n"
        if reason:
            return Interval(math.nan, 0.0, math.inf, "unresolved", reason)
        reason = "success may level off below one half" if may_level_off else ""
        if fall is not None:
            reason = f"success falls again from n = {fall[0]:g}"
        low, high = self._limits(open_low, open_high or may_level_off)
        gap = self.observations.gap
        if gap is not None:
            low, high, middle = min(low, gap[0]), max(high, gap[1]), 0.5 * (gap[0] + gap[1])
        elif middle > self.values[-1]:
            return Interval(math.nan, math.exp(low), math.inf, "right", reason)
        elif middle < self.values[0]:
            return Interval(math.nan, 0.0, math.exp(high), "left", reason)
        elif self.sharp:  # between two n nothing is known
            place = int(np.searchsorted(self.values, middle))
            below, above = self.values[place - 1], self.values[place]
            low, high = min(low, below), max(high, above)
            gap = (below, above) if (low, high) == (below, above) else None
        low, high = min(low, middle), max(high, middle)
        (link, _), (_, width, lapse) = self.shown, self.curve
        evidence = float(found.weight[:, 1:].sum())
        row = Interval(math.exp(middle), math.exp(low), math.exp(high), "none", reason, link, math.nan, lapse, evidence)
        if gap is not None:
            return replace(row, censored="interval")
        rises = float(log_measurements(link, np.asarray(width), lapse, middle))
        return replace(row, scale=width / rise(link), width=math.exp(min(rises, 700.0)))

    def _plateau(self) -> tuple[float, float]:
        """Greatest log-likelihood of curves that never reach one half, and the plateau of the most likely one."""
        center = np.linspace(*self.ends, 41)
        width = np.geomspace(max(self.widths[0], center[1] - center[0]), self.widths[1], 9)[:, None]
        best = (-math.inf, math.nan)
        for link in self.links:
            heights = self.observations.heights(link, center, width / rise(link), PLATEAUS) / self.dispersion
            best = max(best, (float(heights.max()), 1.0 - PLATEAUS[int(heights.max(axis=(1, 2)).argmax())]))
        return best

    def _limits(self, open_low: bool, open_high: bool) -> tuple[float, float]:
        """Limits of log n50: the posterior's quantiles, or those of the likelihood if one side is open."""
        if not open_low and not open_high:
            low, high = self.posterior.quantiles((0.5 - 0.5 * self.level, 0.5 + 0.5 * self.level))
            return float(low), float(high)
        inside = self.posterior.heights >= self.posterior.heights.max() - self.drop
        places = self.posterior.log_n50[inside]
        return -math.inf if open_low else float(places.min()), math.inf if open_high else float(places.max())

    def _other(self) -> float:
        """n50 under the second most likely link; NaN if one link was requested."""
        link, lapses = self.chosen
        shares = self.posterior.weight.sum(axis=(1, 2, 3))
        second = max((k for k, name in enumerate(self.links) if name != link), key=shares.__getitem__, default=None)
        if second is None:
            return math.nan
        heights = self.posterior.heights[second]
        best = int((heights if lapses else heights[:1]).argmax())
        return math.exp(min(float(self.posterior.log_n50[second].ravel()[best]), 700.0))

    def _goodness(self, trials: bool) -> tuple[float, float]:
        """p-value of the deviance from the saturated model, and its excess over what the curve predicts.

        The curve is refitted to data simulated from it (parametric bootstrap), on the grid of the posterior: the
        log-likelihood is linear in the counts, so all refits are one product of matrices.
        """
        from scipy import special

        observed, size = self.observations.outcomes(trials=trials), len(self.values)
        if observed is None:
            return math.nan, 1.0
        (link, _), found = self.shown, self.posterior

        def chances(center: np.ndarray, width: np.ndarray, lapse: np.ndarray) -> np.ndarray:
            return self.observations.chances(link, center, width / rise(link), lapse, trials=trials)

        grid = chances(found.center[::2], found.width[:, None], found.lapses[:, None, None])
        table = np.log(np.maximum(grid, 1e-300)).reshape(-1, len(observed))
        chance = chances(*np.array(self.curve))
        generator = np.random.Generator(np.random.Philox(key=20240229))
        if trials:
            total = observed[:size] + observed[size:]
            drawn = generator.binomial(total.astype(int), np.clip(chance[:size], 0.0, 1.0), (BOOTSTRAPS, size))
            samples, totals = np.concatenate((drawn, total - drawn), axis=1), np.tile(total, 2)
        else:
            totals = np.full(1, observed.sum())
            samples = generator.multinomial(int(totals[0]), chance / chance.sum(), BOOTSTRAPS)
        samples = np.concatenate((observed[None], samples))  # (1 + BOOTSTRAPS, columns)
        saturated = special.xlogy(samples, samples / np.maximum(totals, 1.0)).sum(axis=1)
        deviance = 2.0 * (saturated - (table @ samples.T).max(axis=0))
        p_value = (1.0 + float((deviance[1:] >= deviance[0]).sum())) / (1.0 + BOOTSTRAPS)
        return p_value, max(1.0, float(deviance[0] / max(deviance[1:].mean(), 1e-9)))


def clustering(runs: Runs, fit: Fit, level: float) -> float:
    """By how much the runs of a replicate agree with each other: the variance of their scores over independent ones'.

    Where a replicate fails after it succeeded, its runs at several n are neither independent nor one threshold. The
    curve is fitted as if they were independent, and its log-likelihood is divided by this factor, which includes that
    of Student's quantile for as many replicates.
    """
    from scipy import special

    (link, _), (center, width, lapse) = fit.shown, fit.curve
    argument = (np.log(runs.n) - center) / (width / rise(link))
    step = 1e-4
    up, down = ((1.0 - lapse) * probabilities(link, argument + side)[0] for side in (0.5 * step, -0.5 * step))
    chance = np.clip((1.0 - lapse) * probabilities(link, argument)[0], 1e-9, 1.0 - 1e-9)
    slope = (up - down) / step
    score = np.bincount(np.asarray(runs.replicate), slope * (runs.success - chance) / (chance * (1.0 - chance)))
    count = len(score)
    if count < 2:
        return math.inf
    between = count / (count - 1) * float((score**2).sum())
    information = float((slope**2 / (chance * (1.0 - chance))).sum())
    student = float(special.stdtrit(count - 1, 0.5 + 0.5 * level)) / NormalDist().inv_cdf(0.5 + 0.5 * level)
    return max(1.0, between / max(information, 1e-12)) * student**2


def _fall(observations: Observations) -> tuple[float, bool] | None:
    """Where success falls with n beyond chance, and whether below one half after having been above; None if nowhere.

    The deviance of the best curve that never falls, of any shape, is compared with that of data simulated from it.
    """
    from scipy import special

    successes, total = observations.won, observations.won + observations.lost
    deviance, rising = _isotonic_deviance(successes[None], total)
    if deviance[0] < 4.0:
        return None
    generator = np.random.Generator(np.random.Philox(key=20240301))
    drawn = generator.binomial(total.astype(int), np.clip(rising[0], 0.0, 1.0), (BOOTSTRAPS, len(total)))
    extreme = int((_isotonic_deviance(drawn, total)[0] >= deviance[0]).sum())
    if (1.0 + extreme) / (1.0 + BOOTSTRAPS) >= POOR_FIT:
        return None
    n, rate = np.round(np.exp(observations.values), 6).tolist(), successes / total
    for place in range(int(np.argmax(np.append(rate, 1.0) > 0.5)) + 1, len(total)):
        for stop in (place + 1, len(total)):
            chance = special.bdtr(successes[place:stop].sum(), int(total[place:stop].sum()), 0.5)
            if rate[place] < 0.5 and chance < 0.05:
                return n[place], True
    return n[int(np.diff(rate).argmin()) + 1], False


def _isotonic_deviance(successes: np.ndarray, total: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Deviance of the best curve that never falls, (s,), of each sample (s, v) of successes, and that curve, (s, v)."""
    from scipy import optimize, special

    rising = np.stack([optimize.isotonic_regression(row, weights=total).x for row in successes / total])
    failures = total - successes
    saturated = special.xlogy(successes, successes / total) + special.xlogy(failures, failures / total)
    fitted = special.xlogy(successes, rising) + special.xlogy(failures, 1.0 - rising)
    return 2.0 * (saturated - fitted).sum(axis=1), rising
