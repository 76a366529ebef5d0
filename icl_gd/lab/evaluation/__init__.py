"""What a trained population is compared with, and the questions asked of it."""
