"""Looks before a run is paid for whether it can work, and estimates what it will take."""
