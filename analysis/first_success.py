"""On nested problems every replicate has its own N, the first n at which it succeeds: is E[N] = delta + 1/2?"""

from flatdist.figures.first_success import main

if __name__ == "__main__":
    raise SystemExit(main())
