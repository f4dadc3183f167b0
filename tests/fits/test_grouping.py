"""What makes trials different: a null is a value where the method uses the field, and no value where it does not."""

from __future__ import annotations

import pandas as pd
import pytest
from synthetic import quickstart_like

from analysis import fit_scaling, fit_thresholds
from flatdist.errors import FitError
from flatdist.figures.panels import describe
from flatdist.figures.phase_diagram import panel_columns
from flatdist.figures.training_curves import series_columns as curve_columns
from flatdist.figures.words import text_lines, threshold_table
from flatdist.fits.grouping import configuration_columns, series_columns
from flatdist.fits.paired import paired_differences

KEYWORDS = [("learning_rate", 0.01, "rate auto"), ("batch_size", 10, "batch full")]


def with_keyword(field: str, value: float, **fields: object) -> pd.DataFrame:
    """Label-noise SGD with the field's keyword and with a value, and a solver to which the field does not matter."""
    methods = ("label_noise_sgd",)
    parts = [quickstart_like((1,), methods, **{**fields, field: setting}) for setting in (None, value)]
    return pd.concat([*parts, quickstart_like((1,), ("min_nuclear_norm",), **fields)], ignore_index=True)


@pytest.mark.parametrize(("field", "value", "name"), KEYWORDS)
def test_a_keyword_and_a_value_are_two_configurations(field: str, value: float, name: str) -> None:
    trials = with_keyword(field, value)
    assert configuration_columns(trials) == ["method", field]
    assert configuration_columns(trials, but=["method"]) == [field]
    assert series_columns(trials) == ["method", field]
    assert panel_columns(trials) == ["method", field]
    assert curve_columns(trials[trials["method"] == "label_noise_sgd"]) == ["method", field]
    thresholds = fit_thresholds(trials, by=["method", field])
    assert thresholds["n_replicates"].nunique() == 1, "none are pooled"
    assert len(thresholds) == 3
    names = [describe(key) for key in thresholds[["method", field]].to_dict("records")]
    assert names == [
        "label-noise SGD, " + name.split(maxsplit=1)[0] + f" {value:g}",
        f"label-noise SGD, {name}",
        "min nuclear norm",
    ]
    lines = text_lines(threshold_table(thresholds, ["method", field]))
    printed = [line.split()[1] for line in lines[1:4]]
    assert printed == [f"{value:g}", name.split()[1], "-"]


@pytest.mark.parametrize(("field", "value", "name"), KEYWORDS)
def test_pooling_a_keyword_with_a_value_warns(field: str, value: float, name: str) -> None:
    with pytest.warns(UserWarning, match=f"differ in {field};"):
        fit_thresholds(with_keyword(field, value), by="method")


@pytest.mark.parametrize(("field", "value", "name"), KEYWORDS)
def test_a_field_that_does_not_matter_to_the_others_is_no_difference(field: str, value: float, name: str) -> None:
    trials = with_keyword(field, value)
    explicit = trials[trials[field].notna() | (trials["method"] == "min_nuclear_norm")]
    assert configuration_columns(explicit) == ["method"]
    assert describe({"method": "min_nuclear_norm", field: None}) == "min nuclear norm"


def test_paired_differences_keep_a_keyword_apart() -> None:
    trials = with_keyword("learning_rate", 0.01)
    table = paired_differences(trials, "min_nuclear_norm")
    assert table.groupby("learning_rate", dropna=False).size().nunique() == 1
    assert set(table["pairs"]) == {8}
    with pytest.raises(FitError, match=r"select one of its learning_rate$"):
        paired_differences(trials, "label_noise_sgd")


def test_laws_are_fitted_to_each_configuration_of_the_table() -> None:
    trials = pd.concat([with_keyword("learning_rate", 0.01, d_out=size, d_in=size) for size in (8, 12)])
    thresholds = fit_thresholds(trials, by=["method", "learning_rate", "d_out", "d_in", "rank"])
    laws = fit_scaling(thresholds, laws=["statdim"])
    assert laws["n_points"].tolist() == [2, 2, 2]
    assert laws["learning_rate"].notna().sum() == 1


def test_widths_of_one_depth_make_curves_of_their_own() -> None:
    trials = pd.concat([quickstart_like((1,), ("label_noise_sgd",), width=width) for width in ((12, 12), (20, 20))])
    assert curve_columns(trials) == ["method", "width"]
