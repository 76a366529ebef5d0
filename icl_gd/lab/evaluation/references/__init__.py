"""What trained populations are compared with, a module for each kind."""
