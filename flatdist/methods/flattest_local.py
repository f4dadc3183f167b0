"""Whether the ground truth is a sharp local minimum of the induced regularizer F among the interpolators: nu < 1.

The flattest interpolator recovers M* if M* minimises F. This method certifies a local minimum by a convex program, at
sizes and depths that no solver of the flattest interpolator reaches; ``depth`` may be ``inf``. ``relative_error`` is 0
where nu < 1 is certified and 1 where it is not.
"""

from flatdist.methods.base import StudyMethod

METHOD = StudyMethod(
    name="flattest_local",
    numerics_version=1,
    fields=("depth",),
    summary="whether the ground truth is a sharp local minimum of flatness among the interpolators (nu < 1)",
    label="flattest, locally",
    study="flatdist.solvers.flattest_local:flattest_local",
    study_seconds=0.03,
)
