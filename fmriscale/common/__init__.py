"""What every part of the package may use: errors, files, worker processes, random numbers, array tasks."""
