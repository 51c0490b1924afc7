"""Which runs a data set has, what they are called, and which files belong to them."""
