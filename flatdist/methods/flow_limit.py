"""The limit of label-noise SGD at small learning rates: dW/dtau = -P_T grad tr Hess L(W) (Li, Wang, Arora 2021).

From the same layers that SGD would start from, gradient flow reaches zero loss; from there the flow is followed for
``flow_duration``, on the clock that every history records as ``flow_time``.
"""

from flatdist.methods.base import START_FIELDS, StudyMethod

METHOD = StudyMethod(
    name="flow_limit",
    numerics_version=1,
    fields=(*START_FIELDS, "flow_duration", "evaluations"),
    summary="the flow on the zero-loss manifold that label-noise SGD follows as the learning rate tends to 0",
    label="flow limit",
    study="flatdist.solvers.flow_limit:flow_limit",
    study_seconds=2.0,
)
