"""References that trained populations are compared with: one module for each kind."""
