"""What can be concluded from an atlas and a model together."""
