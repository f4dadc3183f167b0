"""Deep factorizations: products, flatness, the induced regularizer, the flow on interpolators, isometry, evaluation."""
