"""Evaluation of trained populations: references that they are compared with, and analyses."""
