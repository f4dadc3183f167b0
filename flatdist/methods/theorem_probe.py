"""Each statement of Gatmiry et al. (2023) about the problem itself, evaluated on it; no matrix is estimated.

The measured numbers are the ``quantities`` of the trial; :mod:`flatdist.solvers.theorem_probe` names them.
"""

from flatdist.methods.base import ARCHITECTURE_FIELDS, StudyMethod

METHOD = StudyMethod(
    name="theorem_probe",
    numerics_version=1,
    fields=ARCHITECTURE_FIELDS,
    summary="isometry constants, traces and induced regularizers of a problem, for the theorems' checks",
    label="theorem probe",
    study="flatdist.solvers.theorem_probe:theorem_probe",
    study_seconds=3.0,
)
