"""Floor 0: users' tables read, checked and written, and files that are replaced whole or not at all.

Nothing here needs torch. `reading` and `columns` load pandas; `atomic` and `writing` load nothing.
"""
