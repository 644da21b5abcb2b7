"""The paper's claims, run again: a folder for each group of claims; README.md says what came out.

In each folder `run.py` makes the measurements and `claims.py` turns them into rows of a table and a figure.
"""
