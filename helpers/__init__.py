"""Small tested helpers for the notebooks: data formats, encoding, evaluation.

Importing this package is cheap: torch, transformers, pandas and matplotlib are
imported inside the functions that need them, never here.
"""

__version__ = "0.1.0"
