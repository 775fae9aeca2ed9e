"""The same workloads, side by side in one run, over jobrunner's backends, its peers, and the bare sockets below them.

    python -m benchmarks.peers --help       # from the checkout's folder

`environments` makes a virtual environment for each peer; `measure` runs in it, once per figure, in a fresh process;
`adapters` has what the peers do differently, `workloads` what is the same for all, `floor` what no runner can undercut.
"""
