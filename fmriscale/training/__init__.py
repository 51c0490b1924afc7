"""Makes steps happen: the only room that knows DeepSpeed, Slurm and MLflow."""
