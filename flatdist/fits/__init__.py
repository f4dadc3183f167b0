"""From tables of trials to tables of findings: thresholds, laws, pairs. DataFrame in, DataFrame out."""
