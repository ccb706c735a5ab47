"""Rival programs, behind the same interface as DooD."""
