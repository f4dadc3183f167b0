"""Methods side by side on the same problems: paired differences of success, with intervals."""

from flatdist.figures.paired import main

if __name__ == "__main__":
    raise SystemExit(main())
