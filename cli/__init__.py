"""The ``dood-pyro`` command. Thin: each command parses its options and calls the library.

Heavy imports wait inside the commands, so that ``--help`` answers at once.
"""
