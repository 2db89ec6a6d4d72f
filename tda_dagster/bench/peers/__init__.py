"""The methods of other libraries on the bench: the same model, data, loss and draws as ours.

What belongs here: one file per library that hands the study over in the library's own terms and
takes its scores back, and `peer`, what they share. The libraries come with `tda-dagster[peers]`;
nothing else of the project needs them.
"""
