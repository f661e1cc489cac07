"""Evidence: every record that ends in case.json or run.json, and the checks that fill them."""
