"""How good are predictions: plain arrays in, numbers and a Markdown report out."""
