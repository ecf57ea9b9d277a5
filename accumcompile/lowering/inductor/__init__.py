"""The lowering to Inductor: compiled bodies, and compiled bridges between the loops.

Checked on torch 2.11, 2.13 and 2.15.
"""
