"""Brings a whole deployment up, P engines, D engines and a router, and takes it down again."""
