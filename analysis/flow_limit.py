"""Label-noise SGD against the flow that it follows as the learning rate tends to 0 (Li, Wang, Arora 2021)."""

from flatdist.figures.flow_limit import main

if __name__ == "__main__":
    raise SystemExit(main())
