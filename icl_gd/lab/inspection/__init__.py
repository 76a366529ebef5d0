"""A page to look into models with: one self-contained HTML file, written by `icl-gd inspect`."""
