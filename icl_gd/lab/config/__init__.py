"""What a run is asked for: fields, what they accept, whether they agree, what they need."""
