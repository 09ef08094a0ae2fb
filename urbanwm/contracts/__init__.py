"""What data look like between the parts of UrbanWM."""
