"""Analyses of a trace and its model's weights; none of them runs the whole model again."""
