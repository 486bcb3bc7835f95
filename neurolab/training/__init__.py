"""The recipe that trains the pocket."""
