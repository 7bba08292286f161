"""What the published models compute at width 16, and the numbers they compute it from: see README.md."""
