"""Load models, name the sites in them, and read their activations."""
