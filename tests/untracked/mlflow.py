"""In front of the real one, it makes MLflow a package that is not installed."""

raise ModuleNotFoundError("No module named 'mlflow'", name="mlflow")
