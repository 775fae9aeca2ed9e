"""The command line: each command turns options into a config and calls one function of the library.

    app.py             all commands, and the form of an error
    common_options.py  the options that commands share, and the search for an address
    output.py          table, JSON or quiet: the only way to standard output
    views.py           the tables of status, workers and tasks
    text.py            texts for durations and the like
    watch.py           `status --watch`
    demo_runs.py       the measurements of `demo`
    demo_view.py       the output of `demo`

Commands import what they need when they run, so that help and completion stay fast.
"""
