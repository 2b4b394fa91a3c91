"""The nouns, frozen and pure."""
