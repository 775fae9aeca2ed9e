"""Messages that no jobrunner would send, and who is to take them: the parts of fuzz.py and fuzz_sockets.py.

author      writes valid messages of every type
vandal      damages them
victims     the three cores, in this process, in the middle of their work
"""
