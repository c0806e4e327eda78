"""Planted bugs of the reference: each clause has at least one that it catches.

One module per unit; each exports ``MUTANTS``.
"""
