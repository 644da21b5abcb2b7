"""Measurements of corefold, a folder for each question.

| folder | question |
| --- | --- |
| `steps` | What does a training step cost beside those of other methods? |
| `initialization` | What does `initialize_bases` cost, and how good are the bases that it finds? |
| `fast_path` | Does the adapted linear layer's fast path train as the plain one does? |
| `completion` | How well and how fast is a matrix completed, with no setting touched? |

Scripts run from the repository's root, for example `python -m benchmarks.steps.step`. Each writes a JSON file beside
itself after every measurement, and leaves what the file already holds, so a run that was killed continues.
`python -m benchmarks.figures` draws the pictures and fills the tables of README.md from these files. `shared` holds
what several questions need.
"""
