"""Conversations turn by turn, under one mode of routing or several."""
