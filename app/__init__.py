"""taskflow: a task-management service that other software builds on."""

__version__ = "0.1.0"
