"""The command line: each command turns options into a config and calls one function of the library.

    app.py         the commands put together, and what an error looks like
    options.py     the options that commands share; how an address is found
    output.py      table, JSON or quiet: the only way to standard output
    views.py       what status, workers and tasks look like
    text.py        words for durations and the like
    watch.py       `status --watch`
    demo_runs.py   what `demo` measures; demo_view.py: how that looks

Commands import what they need when they run, so that help and completion stay fast.
"""
