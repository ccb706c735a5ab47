"""Objectives of training, for model and guide, one file each; `dood_pyro.registry` names them."""
