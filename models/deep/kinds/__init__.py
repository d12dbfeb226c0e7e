"""Kinds of trunk, one a file: how each computes its hidden layer. ``models/deep/fits/`` trains them."""
