"""Devices elsewhere: which there are, what they are, how they are reached and trusted, and what runs on them."""
