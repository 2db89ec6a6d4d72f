"""The package's version. DVC compares this file: a new version of the package runs its stages."""

__version__ = "0.1.0"
