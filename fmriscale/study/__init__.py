"""Fine-tuning studies: pairs, folds, arms, fits, statistics, verdict."""
