"""The question: a cell's fields and identity, the problem it poses, and the columns that follow from it."""
