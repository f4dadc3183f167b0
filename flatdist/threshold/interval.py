"""n50 of one group of runs and its interval: the one way in which searches, tables and figures state it.

The estimate comes from the most likely curve of the link that the runs favour; the interval averages over links and
lapse rates by their posterior weights (:mod:`flatdist.threshold.posterior`), since the uncertainty about the shape is
what the intervals of a single model leave out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import NormalDist

import numpy as np

from flatdist.threshold.curves import LINKS, Observations, crossing, probabilities, rise
from flatdist.threshold.posterior import FINE, LINK_WEIGHTS, Posterior, posterior, width_range
from flatdist.threshold.runs import Runs
from flatdist.threshold.width import limits, log_measurements

REACH = 1.0  # how far beyond the measured log n centers are considered, in units of their range
POOR_FIT = 0.02  # a goodness-of-fit p below it is said in words
WIDENED = 0.1  # and one below it widens the interval
CLEARLY = 10.0  # evidence against the logistic curve from which on another is shown
UNRESOLVED = 0.3  # of the distance between two n: narrower transitions cannot be told from sharp ones
BOOTSTRAPS = 199
PLATEAUS = np.array(
    [0.52, 0.56, 0.6, 0.66, 0.73, 0.8, 0.87, 0.94, 0.98]
)  # lapse rates of curves that never reach one half


@dataclass(frozen=True)
class Interval:
    """n50, the number of measurements at which the success probability crosses one half, and the curve around it.

    Attributes:
        n50: estimate; NaN where censored left, right or unresolved.
        low, high: limits; 0 or infinite where the runs do not bound n50.
        censored: ``none``; ``interval`` (all fail up to one n and all succeed from the next: n50 lies between them, and
            the estimate is their geometric middle); ``left`` (n50 is below the smallest n); ``right`` (above the
            largest); ``unresolved`` (no n50, see ``reason``).
        reason: why n50 is unresolved, or what else to know of it, in words; empty where there is nothing to say.
        link: of the likeliest curve.
        scale: of log n on that curve; NaN where n50 is not estimated.
        lapse: share of failures at large n; 0 where the runs do not speak for lapses.
        lapse_evidence: posterior probability that there are lapses, 1/2 before any run.
        width, width_low, width_high: from 10 to 90 % of the curve's rise, in measurements.
        fit_p: p-value of the curve's fit, by parametric bootstrap; NaN where it was not computed.
        other: n50 under the next likeliest link.
    """

    n50: float
    low: float
    high: float
    censored: str
    reason: str = ""
    link: str = "logit"
    scale: float = math.nan
    lapse: float = math.nan
    lapse_evidence: float = math.nan
    width: float = math.nan
    width_low: float = math.nan
    width_high: float = math.nan
    fit_p: float = math.nan
    other: float = math.nan

    @property
    def half_width(self) -> float:
        """Half of the interval's width on log n, about the relative error of n50; infinite where it is unbounded."""
        return 0.5 * math.log(self.high / self.low) if self.low > 0 and math.isfinite(self.high) else math.inf


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
        return _one_value(float(values[0]), int(won[0]), int(lost[0]), level)
    bounds = runs.bounds()
    fit = Fit(runs.observations(), LINKS if link == "auto" else (link,), level)
    if runs.replicate is not None and bounds is None:
        return Fit(fit.observations, fit.links, level, clustering(runs, fit, level)).report(details, trials=False)
    return fit.report(details, trials=bounds is None)


def _one_value(n: float, won: int, lost: int, level: float) -> Interval:
    """A single n shows at most on which side of it n50 lies."""
    # Likelihood of the observed share against one half, the only thing that n50 = n would predict.
    from scipy import special

    evidence = sum(special.xlogy(part, 2.0 * part / (won + lost)) for part in (won, lost))
    if evidence <= _drop(level):
        reason = "one value of n cannot show on which side of it success crosses one half"
        return Interval(math.nan, 0.0, math.inf, "unresolved", reason)
    reason = "one value of n was measured"
    return (
        Interval(math.nan, 0.0, n, "left", reason) if won > lost else Interval(math.nan, n, math.inf, "right", reason)
    )


def _drop(level: float) -> float:
    """How far below its maximum a profile log-likelihood may fall within an interval."""
    return 0.5 * NormalDist().inv_cdf(0.5 + 0.5 * level) ** 2


class Fit:
    """Curves fitted to the observations of one group that has at least two values of n.

    Args:
        observations: at least one.
        links: to average over.
        level: of the intervals.
        dispersion: of the observations, relative to independent ones.
    """

    def __init__(
        self, observations: Observations, links: tuple[str, ...], level: float, dispersion: float = 1.0
    ) -> None:
        self.observations, self.links, self.level, self.dispersion = observations, links, level, dispersion
        self.values = observations.values
        span = float(self.values[-1] - self.values[0])
        self.ends = (float(self.values[0]) - REACH * span, float(self.values[-1]) + REACH * span)
        self.drop = _drop(level)

    @cached_property
    def posterior(self) -> Posterior:
        """Of the curves that cross one half."""
        return posterior(
            self.observations, self.ends, width_range(self.values), links=self.links, dispersion=self.dispersion
        )

    @cached_property
    def kinds(self) -> np.ndarray:
        """(k, 2) evidence for each link without and with lapses, links counting alike."""
        shares = self.posterior.weight.sum(axis=(2, 3))  # (k, l)
        weights = np.array([LINK_WEIGHTS[link] for link in self.links])
        return np.asarray(np.stack((shares[:, 0], shares[:, 1:].sum(axis=1)), axis=1) / weights[:, None])

    @cached_property
    def chosen(self) -> tuple[str, bool]:
        """The link, and whether there are lapses, of greatest evidence: what n50 is estimated with."""
        link, lapses = np.unravel_index(int(self.kinds.argmax()), self.kinds.shape)
        return self.links[link], bool(lapses)

    @cached_property
    def shown(self) -> tuple[str, bool]:
        """The same for the curve that is drawn and whose width is reported: logistic unless the runs clearly differ."""
        evidence = self.kinds.sum(axis=1)
        plain = self.links.index("logit") if "logit" in self.links else 0
        best = int(evidence.argmax())
        link = best if evidence[best] > CLEARLY * evidence[plain] else plain
        return self.links[link], bool(self.kinds[link, 1] > self.kinds[link, 0])

    @cached_property
    def curve(self) -> tuple[float, float, float]:
        """Center, width and lapse rate of the likeliest curve that is shown."""
        return self.likeliest(*self.shown)

    @cached_property
    def middle(self) -> tuple[float, bool]:
        """The estimate of log n50, and whether the transition is narrower than the measured n resolve.

        The likeliest curve's. Where that is far narrower than the distance between the n on either side, the
        likelihood is flat between them, and the posterior's median is taken.
        """
        link, lapses = self.chosen
        curve = self.curve if self.shown == self.chosen else self.likeliest(link, lapses)
        middle = self.n50_of(link, curve)
        place = int(np.searchsorted(self.values, middle))
        inside = 0 < place < len(self.values)
        if inside and curve[1] < UNRESOLVED * (self.values[place] - self.values[place - 1]):
            return float(self.posterior.quantiles((0.5,))[0]), True
        return middle, False

    def likeliest(self, link: str, lapses: bool) -> tuple[float, float, float]:
        """Center, width and lapse rate of greatest likelihood, from the best curve of the grid."""
        found = self.posterior
        heights = found.heights[self.links.index(link)]
        start = np.unravel_index(int((heights if lapses else heights[:1]).argmax()), heights.shape)
        center, width, lapse = found.center[start[2]], found.width[start[1]], found.lapses[start[0]]
        reach = np.array([found.center[1] - found.center[0], math.log(found.width[1] / found.width[0]), 0.12])
        pattern = np.linspace(-1.0, 1.0, 5)
        at, size, best = np.array([center, math.log(width), lapse]), 1.0, -math.inf
        for _ in range(30):  # patterns of curves around the best so far, ever smaller
            centers, widths = at[0] + size * reach[0] * pattern, at[1] + size * reach[1] * pattern
            rates = (
                np.unique(np.clip(at[2] + size * reach[2] * pattern, 0.0, FINE.lapses[-1])) if lapses else np.zeros(1)
            )
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

    def n50_of(self, link: str, curve: tuple[float, float, float]) -> float:
        """log n at which a curve is one half."""
        center, width, lapse = curve
        return center + width / rise(link) * crossing(link, min(lapse, 0.499))

    def report(self, details: bool, *, trials: bool) -> Interval:
        """Everything in one row.

        Args:
            details: whether the width's limits, the goodness of fit and the other link's n50 are wanted too.
            trials: whether the observations are independent trials, each at one n.
        """
        if self.observations.all_failed or self.observations.all_succeeded:
            return self._one_sided()
        fall = _fall(self.observations) if trials else None
        found = self._crossing(fall)
        if found.censored not in ("none", "interval") or not details:
            return found
        low, high = limits(self.posterior, self.curve[2], self.middle[0], self.level)
        if found.width < math.inf:  # False where n50 is only known to lie in a gap
            low, high = min(low, found.width), max(high, found.width)
        found = replace(found, width_low=low, width_high=high, other=self._other())
        p_value, excess = self._goodness(trials)
        found = replace(found, fit_p=p_value)
        if p_value < WIDENED and self.dispersion == 1.0:
            wider = Fit(self.observations, self.links, self.level, excess)._crossing(fall)
            if wider.censored == "none":
                found = replace(found, low=min(found.low, wider.low), high=max(found.high, wider.high))
        return found

    def _one_sided(self) -> Interval:
        """All succeed or all fail: an n50 on the wrong side of an outcome gives it a chance of one half at best."""
        failed = self.observations.all_failed
        counts = self.observations.lost if failed else self.observations.won
        contrary = np.cumsum(counts[::-1])[::-1] if failed else np.cumsum(counts)
        allowed = np.flatnonzero(contrary * math.log(2.0) / self.dispersion <= self.drop)
        if failed:
            first = int(allowed[0]) if len(allowed) else len(self.values)
            low = math.exp(self.values[first - 1]) if first > 0 else 0.0
            return Interval(math.nan, low, math.inf, "right", "no run succeeds")
        last = int(allowed[-1]) if len(allowed) else -1
        high = math.exp(self.values[last + 1]) if last + 1 < len(self.values) else math.inf
        return Interval(math.nan, 0.0, high, "left", "every run succeeds")

    def _crossing(self, fall: tuple[float, bool] | None) -> Interval:
        """n50 with its limits, or why there is none."""
        found = self.posterior
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
        low, high = self._limits(open_low, open_high or may_level_off)
        reason = "success may level off below one half" if may_level_off else ""
        if fall is not None:
            reason = f"success falls again from n = {fall[0]:g}"
        middle, sharp = self.middle
        gap = self.observations.gap
        if gap is not None:
            low, high, middle = min(low, gap[0]), max(high, gap[1]), 0.5 * (gap[0] + gap[1])
        elif middle > self.values[-1]:
            return Interval(math.nan, math.exp(low), math.inf, "right", reason)
        elif middle < self.values[0]:
            return Interval(math.nan, 0.0, math.exp(high), "left", reason)
        elif sharp:  # between two n nothing is known
            place = int(np.searchsorted(self.values, middle))
            below, above = self.values[place - 1], self.values[place]
            low, high = (below if low > below else low), (above if high < above else high)
            gap = (below, above) if (low, high) == (below, above) else None
        low, high = min(low, middle), max(high, middle)
        link, _ = self.shown
        _, width, lapse = self.curve
        evidence = float(found.weight[:, 1:].sum())
        row = Interval(math.exp(middle), math.exp(low), math.exp(high), "none", reason, link, math.nan, lapse, evidence)
        if gap is not None:
            return replace(row, censored="interval")
        rises = float(log_measurements(link, np.asarray(width), lapse, middle))
        return replace(row, scale=width / rise(link), width=math.exp(min(rises, 700.0)))

    def _plateau(self) -> tuple[float, float]:
        """Greatest log-likelihood of curves that never reach one half, and the plateau of the most likely one."""
        most = self.observations.most_below(1.0 - PLATEAUS[0]) / self.dispersion
        if most < float(self.posterior.heights.max()) - self.drop:
            return most, math.nan
        center = np.linspace(*self.ends, 41)
        narrow, wide = width_range(self.values)
        width = np.geomspace(max(narrow, center[1] - center[0]), wide, 9)[:, None]
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
        shares = dict(zip(self.links, self.posterior.weight.sum(axis=(1, 2, 3)), strict=True))
        shares.pop(link)
        if not shares:
            return math.nan
        second = max(shares, key=shares.__getitem__)
        heights = self.posterior.heights[self.links.index(second)]
        best = int((heights if lapses else heights[:1]).argmax())
        return math.exp(min(float(self.posterior.log_n50[self.links.index(second)].ravel()[best]), 700.0))

    def _goodness(self, trials: bool) -> tuple[float, float]:
        """p-value of the deviance from the saturated model, and its excess over what the curve predicts.

        The curve is refitted to data simulated from it (parametric bootstrap), on the grid of the posterior: the
        log-likelihood is linear in the counts, so all refits are one product of matrices.
        """
        from scipy import special

        observed, size = self.observations.outcomes(trials=trials), len(self.values)
        if observed is None:
            return math.nan, 1.0
        (link, _), best, found = self.shown, self.curve, self.posterior

        def chances(center: np.ndarray, width: np.ndarray, lapse: np.ndarray) -> np.ndarray:
            return self.observations.chances(link, center, width / rise(link), lapse, trials=trials)

        grid = chances(found.center[::2], found.width[:, None], found.lapses[:, None, None])
        table = np.log(np.maximum(grid, 1e-300)).reshape(-1, len(observed))
        chance = chances(*(np.asarray(value) for value in best))
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

    link, _ = fit.shown
    center, width, lapse = fit.curve
    argument = (np.log(runs.n) - center) / (width / rise(link))
    step = 1e-4
    up, down = ((1.0 - lapse) * probabilities(link, argument + side)[0] for side in (0.5 * step, -0.5 * step))
    chance = np.clip((1.0 - lapse) * probabilities(link, argument)[0], 1e-9, 1.0 - 1e-9)
    slope = (up - down) / step
    score = slope * (runs.success - chance) / (chance * (1.0 - chance))
    labels, unit = np.unique(np.asarray(runs.replicate), return_inverse=True)
    count = len(labels)
    if count < 2:
        return math.inf
    between = count / (count - 1) * float((np.bincount(unit, score) ** 2).sum())
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
    n, rate = np.exp(observations.values), successes / total
    above = np.flatnonzero(rate > 0.5)
    for place in range(above[0] + 1 if len(above) else len(total), len(total)):
        for stop in (place + 1, len(total)):
            chance = special.bdtr(successes[place:stop].sum(), int(total[place:stop].sum()), 0.5)
            if rate[place] < 0.5 and chance < 0.05:
                return float(round(n[place], 6)), True
    falls = np.flatnonzero(np.diff(rate) < 0)
    steepest = falls[np.argmin(np.diff(rate)[falls])]
    return float(round(n[steepest + 1], 6)), False


def _isotonic_deviance(successes: np.ndarray, total: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each sample (s, v) of successes the deviance of its best curve that never falls, (s,), and that curve, (s, v).

    The curve at i is the greatest over j <= i of the least over k >= i of the mean from j to k (Barlow et al. 1972).
    """
    from scipy import special

    size = len(total)
    sums = np.pad(np.cumsum(successes, axis=1), ((0, 0), (1, 0)))
    totals = np.pad(np.cumsum(total), (1, 0))
    rising = np.full(successes.shape, -np.inf)
    for start in range(size):
        means = (sums[:, start + 1 :] - sums[:, start : start + 1]) / (totals[start + 1 :] - totals[start])
        least = np.minimum.accumulate(means[:, ::-1], axis=1)[:, ::-1]
        np.maximum(rising[:, start:], least, out=rising[:, start:])
    failures = total - successes
    saturated = special.xlogy(successes, successes / total) + special.xlogy(failures, failures / total)
    fitted = special.xlogy(successes, rising) + special.xlogy(failures, 1.0 - rising)
    return 2.0 * (saturated - fitted).sum(axis=1), rising
