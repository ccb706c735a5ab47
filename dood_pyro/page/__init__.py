"""The page to draw on, served by ``dood-pyro draw``: strokes beside the drawing as the pen is lifted.

`answers` computes what the page asks for, `server` carries that over HTTP, and static/ is the page.
"""
