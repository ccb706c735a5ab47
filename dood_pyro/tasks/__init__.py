"""Tasks for a trained run: each is a function here and a command in ``cli``."""
