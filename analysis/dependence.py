"""n50 as a function of one field of the cells, a line for each value of the others: what would change the finding?"""

from flatdist.figures.dependence import main

if __name__ == "__main__":
    raise SystemExit(main())
