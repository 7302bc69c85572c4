"""The package's version, where packaging tools read it without importing torch."""

__version__ = "0.1.0"
