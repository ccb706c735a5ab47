"""Pen strokes from a picture's own ink, on a canvas of any size: proposals, without a trained guide."""
