"""What the backends over somebody else's engine (Dask, Ray, MPI) share."""
