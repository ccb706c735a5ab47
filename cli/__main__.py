"""Entry point of ``python -m dood_pyro.cli``."""

from .main import main

main()
