"""What every room may use: errors, files, worker processes, random numbers, tasks of an array, MLflow."""
