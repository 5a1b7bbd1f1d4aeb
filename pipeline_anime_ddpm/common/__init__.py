"""Shared by all folders: errors, atomic files, settings, parsing of untrusted text."""
