"""What theory predicts, as objects that figures draw by name: sample complexities, risks, the statistical dimension."""

from flatdist.theory.flattest import flattest_limit
from flatdist.theory.predictions import (
    LIVING_ON_THE_EDGE,
    PAPER,
    RISK_CURVES,
    SAMPLE_COMPLEXITIES,
    RiskCurve,
    SampleComplexity,
    degrees_of_freedom,
    entries,
    flattest_risk_bound,
    flattest_risk_shape,
    flattest_trace,
    minimum_norm_law,
    minimum_norm_relative_error,
    nuclear_norm_ratio_bound,
    prediction,
    rank_times_sizes,
)
from flatdist.theory.statdim import (
    FirstSuccess,
    first_success,
    statistical_dimension,
    statistical_dimension_asymptotic,
    statistical_dimension_upper_bound,
)

__all__ = [
    "LIVING_ON_THE_EDGE",
    "PAPER",
    "RISK_CURVES",
    "SAMPLE_COMPLEXITIES",
    "FirstSuccess",
    "RiskCurve",
    "SampleComplexity",
    "degrees_of_freedom",
    "entries",
    "first_success",
    "flattest_limit",
    "flattest_risk_bound",
    "flattest_risk_shape",
    "flattest_trace",
    "minimum_norm_law",
    "minimum_norm_relative_error",
    "nuclear_norm_ratio_bound",
    "prediction",
    "rank_times_sizes",
    "statistical_dimension",
    "statistical_dimension_asymptotic",
    "statistical_dimension_upper_bound",
]
