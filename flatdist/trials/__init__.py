"""One cell and its replicates to result rows: training on an engine, or solving."""
