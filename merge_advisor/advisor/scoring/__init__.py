"""`score` and `try`: what the models of a run do on rows none of them has seen."""
