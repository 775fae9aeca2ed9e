"""What a program's process has that the processes of its calls take over: flags, settings, environment."""
