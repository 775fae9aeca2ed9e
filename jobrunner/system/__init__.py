"""The operating system as one process sees it: descriptors, forks, folders, time, its end."""
