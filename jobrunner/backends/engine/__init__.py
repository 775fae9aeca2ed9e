"""The common parts of the backends that use another engine (Dask, Ray, MPI)."""
