"""Quality of a bundle of the small trained model: prompts and seeds through every engine, solver and shortcut.

    python -m benchmarks.quality BUNDLE --out FOLDER

The prompts are those of the drawn world (`benchmarks.drawings`); the judge (`benchmarks.judge`) reads the results.
"""
