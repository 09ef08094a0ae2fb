"""UrbanWM: a latent world model of a city's PM2.5, electricity and traffic."""

__version__ = "0.1.0"
