"""The core of the client: a state machine without I/O, in parts."""
