"""The properties of a program's process that the processes of its calls take over: flags, settings, environment."""
