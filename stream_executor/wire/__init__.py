"""Bytes to nouns and back, pure."""
