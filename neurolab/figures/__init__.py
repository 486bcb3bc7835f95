"""Figures: each a function from what an atlas holds to a picture of it."""
