"""Feature visualization by activation maximization: parametrization, transform, objective, render."""
