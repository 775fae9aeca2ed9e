"""`map`: its chunks, its elements, and its results in the order of its input."""
