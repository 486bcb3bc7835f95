"""Parametrizations: what gradient ascent moves, and how a picture comes of it."""
