"""The ``dood-pyro`` command line: each command parses its options and calls the library.

Heavy imports stand inside the commands, so that ``--help`` answers at once.
"""
