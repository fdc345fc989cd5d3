"""Pictures of runs, drawn from their logs: loss, accuracy, speed, where the time goes, learning rate, loss scale.

Needs matplotlib alone, not MXNet: a log can be drawn on any machine that it is copied to. The names that reach a page
or a picture (of runs, verification sets, settings) are text to draw, and nothing else.
"""
