"""The statistical dimension of the nuclear norm's descent cone at a rank-r matrix: where exact recovery starts.

With Gaussian measurements, nuclear-norm minimisation passes from failure to success around n = delta, over a width of
order sqrt(d_in d_out) (Amelunxen, Lotz, McCoy, Tropp 2014, "Living on the edge"). Three forms are offered, each by its
own name: the exact one (:func:`statistical_dimension`, the prediction that sweep files call ``statdim``), the upper
bound that is usually quoted, and its large-size limit. Only numpy is needed, and scipy nowhere.
"""

from __future__ import annotations

from flatdist.theory.statdim.api import VERSION, statistical_dimension
from flatdist.theory.statdim.bounds import (
    statistical_dimension_asymptotic,
    statistical_dimension_upper_bound,
)

__all__ = [
    "VERSION",
    "statistical_dimension",
    "statistical_dimension_asymptotic",
    "statistical_dimension_upper_bound",
]
