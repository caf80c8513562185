"""Talks to a running server: plot, predict, evaluate."""
