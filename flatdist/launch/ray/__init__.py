"""Running a plan's shards as Ray Tune trials."""
