"""What a gradient costs: its programs, how often their operations run, and JAX's beside them."""
