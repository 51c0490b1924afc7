"""File formats: headers, tables and signals as they are stored, and the reduction to features."""
