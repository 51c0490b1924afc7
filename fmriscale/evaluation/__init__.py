"""Is the result real? Folds, baselines, statistics, the study."""
