"""What a trained run is asked to do, each task a function here and a command in ``cli``."""
