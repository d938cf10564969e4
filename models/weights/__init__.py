"""The shipped networks with their licences; package data, no code."""

from pathlib import Path

FOLDER = Path(__file__).parent
